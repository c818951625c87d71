"""Processes killed, machines lost and drained, worlds that hang: on three machines for real."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.config import RetryConfig
from orchestrator.driver import Driver, Summary, WorldStatus
from orchestrator.executors import AttemptFunction, Ended, Started
from orchestrator.executors.cluster import connect
from orchestrator.executors.ray import RayExecutor
from orchestrator.run import Run
from orchestrator.state import Cause
from tests.cluster.machines import MACHINES, Machines
from tests.orchestrator.attempts import Call, attempt
from workers.config import WorldConfig

QUICK = RetryConfig(backoff_seconds=0.0, backoff_cap_seconds=0.0, out_of_memory=2)
GO = "go"
"""The file in a run's folder that lets the attempts end."""

Listener = Callable[[Driver, Sequence[WorldStatus]], None]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    found = Machines()
    assert connect(found.cluster.address)
    yield found
    ray.shutdown()
    found.close()


@pytest.fixture
def run(machines: Machines, tmp_path: Path) -> Run:
    machines.clear()
    machines.complete()
    return Run.create(str(tmp_path / "run"), {"seed": 3}, {"worlds": MACHINES})


@attempt
def waits_for_go(call: Call) -> Any:
    """Work until the file is there, with a checkpoint when stopped."""
    from workers.world import Stopped

    call.report({"step": 1})
    while not Path(call.run_uri, GO).exists():
        call.beat()
        if call.stop():
            call.commit(step=5)
            raise Stopped("as asked")
        threading.Event().wait(0.02)
    return call.commit()


@attempt
def killed_at_first(call: Call) -> Any:
    """Die of SIGKILL in the middle of world 1's first attempt."""
    if call.world == 1 and call.attempt.startswith("01-"):
        call.commit(step=5)
        Path(call.run_uri, f"killed-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return call.pass_to(waits_for_go)


@attempt
def hangs_at_first(call: Call) -> Any:
    """Do nothing any more in the middle of world 1's first attempt."""
    if call.world == 1 and call.attempt.startswith("01-"):
        call.commit(step=5)
        call.report({"step": 5})
        threading.Event().wait()
    return call.pass_to(waits_for_go)


@attempt
def dies_on_one_machine(call: Call) -> Any:
    """Die wherever the first attempt of all began; elsewhere work."""
    here = ray.get_runtime_context().get_node_id()
    chosen = Path(call.run_uri, "bad machine")
    try:
        with chosen.open("x") as file:
            file.write(here)
    except FileExistsError:
        while not (bad := chosen.read_text()):
            threading.Event().wait(0.02)
        if bad != here:
            return call.pass_to(waits_for_go)
    os.kill(os.getpid(), signal.SIGKILL)


def others_killed(run_uri: str) -> int:
    """Count processes that were killed, as a kernel would that no victim can ask any more."""
    own = f"killed-{os.getpid()}"
    return sum(path.name != own for path in Path(run_uri).glob("killed-*"))


def train(
    run: Run,
    attempt: AttemptFunction,
    listener: Listener = lambda driver, worlds: None,
    *,
    clock: Callable[[], float] = time.monotonic,
    count_kills: Callable[[], int | None] | None = None,
    retry: RetryConfig = QUICK,
    pending_timeout: float = 600.0,
) -> Summary:
    more: dict[str, Any] = {"count_kills": count_kills} if count_kills else {}
    executor = RayExecutor(run.uri, WorldConfig(), worlds=run.worlds, attempt=attempt, **more)
    driver = Driver(
        run,
        executor,
        retry=retry,
        pending_timeout=pending_timeout,
        listener=lambda worlds: listener(driver, worlds),
        clock=clock,
    )
    try:
        return driver.run_to_end()
    finally:
        executor.close()


def go(run: Run) -> None:
    Path(run.uri, GO).touch()


def once_all_work(run: Run, act: Callable[[], None]) -> Listener:
    """Return a listener that acts once all worlds work, and lets them end once they do again."""
    acted: list[bool] = []

    def listen(driver: Driver, worlds: Sequence[WorldStatus]) -> None:
        attempts = [status.attempts for status in worlds]
        if not acted and all(status.progress for status in worlds):
            acted.append(True)
            act()
        elif max(attempts) == 2 and not any(status.status == "pending" for status in worlds):
            go(run)

    return listen


def causes(run: Run) -> list[list[Cause | None]]:
    return [[attempt.cause for attempt in state.attempts] for state in run.states()]


def test_a_process_that_is_killed_costs_its_world_one_attempt(run: Run) -> None:
    def listen(driver: Driver, worlds: Sequence[WorldStatus]) -> None:
        if worlds[1].attempts == 2:
            go(run)

    summary = train(run, killed_at_first, listen)
    assert summary.done == (0, 1, 2)
    assert causes(run) == [["done"], ["error", "done"], ["done"]]
    first, _ = run.state(1).attempts
    assert first.steps == 5
    assert "its process vanished" in first.message


def test_a_process_that_the_system_killed_for_memory_is_told_from_one_that_somebody_did(
    run: Run,
) -> None:
    def listen(driver: Driver, worlds: Sequence[WorldStatus]) -> None:
        if worlds[1].attempts == 2:
            go(run)

    train(run, killed_at_first, listen, count_kills=partial(others_killed, run.uri))
    assert causes(run) == [["done"], ["out_of_memory", "done"], ["done"]]
    message = run.state(1).attempts[0].message
    assert "the system killed the process" in message
    assert "training.batch_size" in message


def test_a_machine_that_is_lost_is_a_preemption(run: Run, machines: Machines) -> None:
    def lose() -> None:
        machines.remove(machines.full_id(run.state(1).attempts[0]))
        machines.complete()

    summary = train(run, waits_for_go, once_all_work(run, lose))
    assert summary.done == (0, 1, 2)
    assert causes(run) == [["done"], ["preemption", "done"], ["done"]]
    assert "its machine was taken away" in run.state(1).attempts[0].message


def test_a_drained_machine_loses_nothing_and_its_world_moves(run: Run, machines: Machines) -> None:
    def drain() -> None:
        machines.drain(machines.full_id(run.state(1).attempts[0]), seconds=120.0)
        machines.complete()

    summary = train(run, waits_for_go, once_all_work(run, drain))
    assert summary.done == (0, 1, 2)
    assert causes(run) == [["done"], ["preemption", "done"], ["done"]]
    first, second = run.state(1).attempts
    assert first.steps == 5
    assert first.node != second.node
    assert "about to be taken away" in first.message


def test_a_world_that_hangs_is_killed_and_goes_on(run: Run) -> None:
    now, flies = [0.0], [False]

    def listen(driver: Driver, worlds: Sequence[WorldStatus]) -> None:
        if worlds[1].progress.get("step") == 5:
            go(run)
        # Time may fly once only the one that hangs is left, until it is tried again.
        others = [worlds[index].status for index in (0, 2)]
        flies[0] = others == ["done", "done"] and worlds[1].attempts == 1

    def clock() -> float:
        if flies[0]:
            now[0] += 50.0
        return now[0]

    summary = train(run, hangs_at_first, listen, clock=clock)
    assert summary.done == (0, 1, 2)
    assert causes(run) == [["done"], ["hung", "done"], ["done"]]
    assert run.state(1).attempts[0].steps == 5


def test_a_world_without_a_place_is_told_while_the_others_run(run: Run) -> None:
    now = [0.0]
    told: list[str] = []
    other: Any = ray.remote(num_cpus=0, num_gpus=1)(Other).remote()
    ray.get(other.here.remote())

    def listen(driver: Driver, worlds: Sequence[WorldStatus]) -> None:
        told.extend(status.lacking for status in worlds if status.lacking)
        if told:
            go(run)
        if sum(bool(status.progress) for status in worlds) == MACHINES - 1:
            now[0] = 1000.0

    summary = train(run, waits_for_go, listen, clock=lambda: now[0])
    ray.kill(other)
    assert summary.done == (0, 1, 2)
    assert "a world needs 1 CPUs and 1 GPUs on one machine, and there is" in told[0]
    assert told[0].endswith("1 CPUs and 1 GPUs, all of it in use")


class Other:
    """Another program's actor."""

    def here(self) -> bool:
        return True


def test_a_machine_that_killed_twice_is_avoided(run: Run) -> None:
    run.change_settings({"worlds": 6})

    def listen(driver: Driver, worlds: Sequence[WorldStatus]) -> None:
        # No room is left elsewhere until the driver knows of two deaths.
        if sum(found.count("error") for found in causes(run)) == 2:
            go(run)

    summary = train(run, dies_on_one_machine, listen)
    assert summary.done == tuple(range(6))
    ends = [attempt for state in run.states() for attempt in state.attempts]
    bad = Path(run.uri, "bad machine").read_text()
    there = [attempt.cause for attempt in ends if f"({bad[:8]})" in str(attempt.node)]
    assert there == ["error", "error"]


def test_bad_machines_are_better_than_none(run: Run, machines: Machines) -> None:
    *bad, good = machines.nodes
    pinned = {"ray.io/node-id": good}
    other: Any = ray.remote(num_cpus=0, num_gpus=1)(Other).options(label_selector=pinned).remote()
    ray.get(other.here.remote())
    go(run)
    executor = RayExecutor(run.uri, WorldConfig(), worlds=1, attempt=waits_for_go)
    try:
        executor.start(0, "01-a", avoid=frozenset(bad))
        machines.remove(good)
        (ended,) = until_ended(executor)
        # Ray may have chosen the machine that is gone, or none yet.
        assert ended.cause in ("preemption", "stopped")
        executor.start(0, "02-b", avoid=frozenset(bad))
        began, *_, ended = until_ended(executor)
        assert isinstance(began, Started) and began.place in bad
        assert ended.cause == "done"
    finally:
        executor.close()


def until_ended(executor: RayExecutor) -> list[Any]:
    """Return the events up to the end of an attempt."""
    events: list[Any] = []
    while not any(isinstance(event, Ended) for event in events):
        executor.wait(1.0)
        events += executor.poll()
    return events
