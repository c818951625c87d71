"""Worlds as Ray actors, on a small cluster of this file's own with GPUs that are only counted."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from orchestrator.config import RetryConfig
from orchestrator.driver import Driver, Summary, WorldStatus
from orchestrator.executors import AttemptFunction
from orchestrator.executors.cluster import connect, machines
from orchestrator.executors.ray import RayExecutor
from orchestrator.run import Run
from tests.cluster.machines import SMALL, joined
from tests.orchestrator.attempts import Call, attempt
from workers.config import RuntimeConfig, WorldConfig
from workers.errors import RunError

CONFIG = WorldConfig()
QUICK = RetryConfig(backoff_seconds=0.0, backoff_cap_seconds=0.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with joined(num_cpus=2, num_gpus=2) as nodes:
        yield nodes


@pytest.fixture
def big(cluster: Cluster) -> Iterator[Callable[[], Any]]:
    """Return what adds a machine of three CPUs; they go after the test."""

    def add() -> Any:
        return cluster.add_node(num_cpus=3, object_store_memory=SMALL)

    yield add
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(str(tmp_path / "run"), {"seed": 3}, {"worlds": 3})


@attempt
def succeeds(call: Call) -> Any:
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    call.report(
        {"threads": call.config.runtime.threads, "device": call.config.runtime.device, "gpus": gpus}
    )
    return call.commit()


@attempt
def dies_once(call: Call) -> Any:
    if call.world == 1 and call.attempt.startswith("01-"):
        call.commit(step=5)
        os._exit(1)
    return call.commit()


@attempt
def one_fails(call: Call) -> Any:
    if call.world == 1:
        raise ZeroDivisionError("in the second world")
    return call.commit()


@attempt
def waits_at_first(call: Call) -> Any:
    from workers.world import Stopped

    if call.attempt.startswith("01-"):
        call.report({"step": 1})
        while not call.stop():
            threading.Event().wait(0.01)
        call.commit(step=5)
        raise Stopped("as asked")
    return call.commit()


def train(
    run: Run,
    attempt: AttemptFunction,
    *,
    listener: Callable[[Driver, Sequence[WorldStatus]], None] = lambda driver, worlds: None,
    clock: Callable[[], float] | None = None,
    **settings: Any,
) -> Summary:
    executor = RayExecutor(run.uri, CONFIG, worlds=run.worlds, attempt=attempt, **settings)
    more: dict[str, Any] = {"clock": clock} if clock else {}
    driver = Driver(
        run, executor, retry=QUICK, listener=lambda worlds: listener(driver, worlds), **more
    )
    try:
        return driver.run_to_end()
    finally:
        executor.close()


def test_each_world_gets_a_gpu_and_its_share_of_cpus(cluster: Cluster, run: Run) -> None:
    seen: list[Sequence[WorldStatus]] = []
    summary = train(run, succeeds, listener=lambda driver, worlds: seen.append(worlds))
    assert summary.done == (0, 1, 2)
    assert [len(state.attempts) for state in run.states()] == [1] * 3
    assert all(state.attempts[0].node for state in run.states())
    for status in seen[-1]:
        assert (status.progress["threads"], status.progress["device"]) == (1, "auto")
        assert status.progress["gpus"] in ("0", "1")


def test_a_world_without_a_gpu_trains_on_the_cpu(cluster: Cluster, run: Run) -> None:
    seen: list[Sequence[WorldStatus]] = []
    train(
        run,
        succeeds,
        gpus_per_world=0,
        cpus_per_world=2,
        listener=lambda driver, worlds: seen.append(worlds),
    )
    for status in seen[-1]:
        assert (status.progress["threads"], status.progress["device"]) == (2, "cpu")


def test_a_world_whose_process_dies_is_resumed(cluster: Cluster, run: Run) -> None:
    assert train(run, dies_once).done == (0, 1, 2)
    first, second = run.state(1).attempts
    assert (first.cause, first.steps, second.cause) == ("error", 5, "done")
    assert "vanished" in first.message
    assert run.state(1).winner == second.name


def test_a_world_that_always_fails_stops_no_other(cluster: Cluster, run: Run) -> None:
    summary = train(run, one_fails)
    assert summary.done == (0, 2)
    assert list(summary.failed) == [1]
    assert "in the second world" in summary.failed[1]
    assert len(run.state(1).attempts) == QUICK.error


def test_stopping_lets_worlds_checkpoint(cluster: Cluster, run: Run) -> None:
    def stop(driver: Driver, worlds: Sequence[WorldStatus]) -> None:
        if any(status.progress for status in worlds):
            driver.stop()

    summary = train(run, waits_at_first, gpus_per_world=2, listener=stop)
    assert summary.pending == (0, 1, 2)
    (attempt,) = run.state(0).attempts
    assert (attempt.cause, attempt.steps) == ("stopped", 5)
    assert run.state(1).attempts == ()


def test_a_lost_machine_is_a_preemption(cluster: Cluster, run: Run, big: Callable[[], Any]) -> None:
    doomed = [big()]

    def take_away(driver: Driver, worlds: Sequence[WorldStatus]) -> None:
        if doomed and any(status.progress for status in worlds):
            cluster.remove_node(doomed.pop(), allow_graceful=False)
            big()

    run = Run.create(f"{run.uri}-of-one", {"seed": 3}, {"worlds": 1})
    summary = train(run, waits_at_first, gpus_per_world=0, cpus_per_world=3, listener=take_away)
    assert summary.complete
    assert [attempt.cause for attempt in run.state(0).attempts] == ["preemption", "done"]


def test_a_world_that_fits_nowhere_is_told(cluster: Cluster, run: Run) -> None:
    ticks = count(0, 100)
    summary = train(run, succeeds, cpus_per_world=64, clock=lambda: float(next(ticks)))
    assert summary.pending == (0, 1, 2)
    assert summary.error is not None
    assert "a world needs 64 CPUs and 1 GPUs on one machine, and there is 2 CPUs" in summary.error


def test_cuda_without_gpus_is_refused(cluster: Cluster, run: Run) -> None:
    config = WorldConfig(runtime=RuntimeConfig(device="cuda"))
    with pytest.raises(RunError, match=r"runtime\.device=cuda: expected GPUs for each world"):
        RayExecutor(run.uri, config, worlds=1, gpus_per_world=0)


def test_what_is_refused_does_not_stay_in_the_cluster(cluster: Cluster, run: Run) -> None:
    config = WorldConfig(runtime=RuntimeConfig(device="cuda"))
    ray.shutdown()
    try:
        with pytest.raises(RunError):
            RayExecutor(run.uri, config, worlds=1, gpus_per_world=0, address=cluster.address)
        assert not ray.is_initialized()
    finally:
        connect(cluster.address)


def test_only_machines_that_are_alive_count(cluster: Cluster, big: Callable[[], Any]) -> None:
    node = big()
    assert sorted(machine.cpus for machine in machines().values()) == [2, 3]
    cluster.remove_node(node)
    assert [machine.cpus for machine in machines().values()] == [2]
