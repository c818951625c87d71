from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.threads import Pool, available_cpus, spans


@given(st.integers(0, 200), st.integers(1, 50))
def test_spans_cut_a_range_into_fixed_sizes(length: int, size: int) -> None:
    cut = spans(length, size)
    assert [i for start, stop in cut for i in range(start, stop)] == list(range(length))
    assert all(stop - start == size for start, stop in cut[:-1])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_task_runs_once(threads: int) -> None:
    done: list[int] = []
    with Pool(threads) as pool:
        pool.run(done.append, [(i,) for i in range(50)])
        pool.run_tasks([(done.append, (50,)), (done.extend, ([51, 52],))])
        pool.run(done.append, [])
    assert sorted(done) == list(range(53))


def test_tasks_run_side_by_side() -> None:
    # Each task waits until all three have begun: fewer threads would time out.
    barrier = threading.Barrier(3, timeout=60)
    met: list[int] = []
    with Pool(3) as pool:
        pool.run(lambda: met.append(barrier.wait()), [()] * 3)
    assert sorted(met) == [0, 1, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_a_task_is_raised(threads: int) -> None:
    def task(number: int) -> None:
        if number == 3:
            raise ZeroDivisionError("task 3")

    with Pool(threads) as pool:
        with pytest.raises(ZeroDivisionError, match="task 3"):
            pool.run(task, [(i,) for i in range(20)])
        # The pool is as good as before.
        pool.run(task, [(i,) for i in range(3)])


def test_an_error_waits_for_the_other_tasks_to_end() -> None:
    failing = threading.Event()
    ended: list[int] = []

    def fail() -> None:
        failing.set()
        raise ZeroDivisionError

    def work() -> None:
        assert failing.wait(60)
        ended.append(sum(range(3_000_000)))

    with Pool(2) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.run_tasks([(fail, ()), (work, ())])
        assert len(ended) == 1


def test_torch_computes_with_one_thread_inside_the_pool() -> None:
    found: list[int] = []
    with Pool(2) as pool:
        pool.run(lambda: found.append(torch.get_num_threads()), [()] * 4)
    assert found == [1] * 4


def test_a_closed_pool_has_no_threads() -> None:
    before = set(threading.enumerate())
    pool = Pool(2)
    pool.run(lambda: None, [()] * 8)
    assert set(threading.enumerate()) > before
    pool.close()
    assert set(threading.enumerate()) == before


def test_no_number_means_every_cpu() -> None:
    with Pool() as pool:
        assert pool.threads == available_cpus() >= 1
