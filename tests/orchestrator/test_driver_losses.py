"""What the driver does about worlds that hang, machines that leave, and places that kill."""

from __future__ import annotations

import pytest

from orchestrator.config import RetryConfig
from orchestrator.driver import Driver
from orchestrator.executors import Beat, Ended, Leaving, Progress, Started
from orchestrator.run import Run
from orchestrator.state import Cause
from orchestrator.views import of_driver
from tests.orchestrator.fakes import FakeExecutor, causes, driver, make_run
from workers.config import TrainingConfig

RETRY = RetryConfig(
    error=3, out_of_memory=3, stall_timeout=50.0, backoff_seconds=0.0, backoff_cap_seconds=0.0
)


@pytest.fixture
def run() -> Run:
    return make_run()


@pytest.fixture
def executor(run: Run) -> FakeExecutor:
    """Return an executor whose attempts go on until they are told to end."""
    held = FakeExecutor(run)
    held.holding = True
    return held


def begun(executor: FakeExecutor, **options: object) -> Driver:
    """Return a driver all of whose worlds run."""
    started = driver(executor, **{"retry": RETRY, **options})
    started.step()
    started.step()
    return started


def wait(held: Driver, executor: FakeExecutor, seconds: float) -> None:
    """Let time pass, in which only worlds 0 and 2 give signs of life."""
    for _ in range(int(seconds)):
        executor.now += 1.0
        executor.events += [
            Beat(world, executor.live[world]) for world in (0, 2) if world in executor.live
        ]
        held.step()


def test_a_world_that_hangs_is_killed_and_tried_again(run: Run, executor: FakeExecutor) -> None:
    held = begun(executor)
    hanging = executor.live[1]
    wait(held, executor, 49)
    assert executor.killed == []
    wait(held, executor, 1)
    assert executor.killed == [1]
    assert causes(run, 1)[0] == "hung"
    assert "retry.stall_timeout" in run.state(1).attempts[0].message
    held.step()
    assert executor.live[1] != hanging


@pytest.mark.parametrize("sign", [Beat, Progress])
def test_any_sign_of_life_will_do(
    executor: FakeExecutor, sign: type[Beat] | type[Progress]
) -> None:
    held = begun(executor)
    for _ in range(3):
        wait(held, executor, 49)
        executor.events.append(sign(1, executor.live[1]))
        held.step()
    assert executor.killed == []


def test_hanging_uses_up_the_budget_of_errors(run: Run, executor: FakeExecutor) -> None:
    held = begun(executor)
    wait(held, executor, 200)
    assert causes(run, 1) == ["hung"] * 3
    assert run.state(1).status == "failed"
    assert run.state(0).status == "running"


def test_a_world_that_waits_for_its_place_does_not_hang(run: Run, executor: FakeExecutor) -> None:
    executor.placing = False
    held = begun(executor)
    for world in (0, 2):
        executor.place(world)
    wait(held, executor, 200)
    assert executor.killed == []


def test_a_driver_that_was_held_up_itself_blames_nobody(executor: FakeExecutor) -> None:
    held = begun(executor, retry=RetryConfig(stall_timeout=300.0))
    executor.now += 10_000.0
    held.step()
    assert executor.killed == []


def test_a_world_that_hangs_cannot_keep_a_driver_from_stopping(
    run: Run, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = begun(executor)
    monkeypatch.setattr(executor, "stop", lambda world: None)
    held.stop()
    for world in (0, 2):
        executor.end(world)
    assert held.run_to_end().pending == (1,)
    assert causes(run, 1) == ["hung"]


@pytest.mark.parametrize(("step", "cause"), [(7, "stopped"), (0, "error"), (0, "preemption")])
def test_a_machine_that_leaves_costs_no_budget(
    run: Run, executor: FakeExecutor, step: int, cause: Cause, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "stop", executor.stopped.append)
    held = begun(executor)
    for _ in range(5):
        executor.script[1] = [(cause, step)]
        executor.events.append(Leaving(1, executor.live[1]))
        held.step()
        executor.end(1)
        held.step()
        held.step()
    assert executor.stopped == [1] * 5
    assert causes(run, 1) == ["preemption"] * 5 + [None]
    assert run.state(1).attempts[0].steps == step
    assert run.state(1).status == "running"


def test_a_world_that_ends_while_its_machine_leaves_is_done(
    run: Run, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "stop", executor.stopped.append)
    held = begun(executor)
    executor.events.append(Leaving(1, executor.live[1]))
    held.step()
    executor.end(1)
    held.step()
    assert causes(run, 1) == ["done"]


def test_a_new_place_is_not_leaving(run: Run, executor: FakeExecutor) -> None:
    held = begun(executor)
    executor.events.append(Leaving(1, executor.live[1]))
    held.step()
    held.step()
    executor.script[1] = [("error", 0)]
    executor.end(1)
    held.step()
    assert causes(run, 1)[:2] == ["preemption", "error"]


@pytest.mark.parametrize(
    ("cause", "vanished", "avoided"),
    [
        ("error", True, True),
        ("out_of_memory", False, True),
        ("out_of_memory", True, True),
        ("error", False, False),
        ("preemption", False, False),
        ("stopped", False, False),
    ],
)
def test_a_place_where_attempts_died_twice_is_avoided(
    executor: FakeExecutor, cause: Cause, vanished: bool, avoided: bool
) -> None:
    held = begun(executor)
    for world in (0, 1):
        assert executor.avoided[-1] == frozenset()
        executor.script[world] = [(cause, 0)]
        executor.end(world, vanished=vanished)
        held.step()
        held.step()
    assert executor.avoided[-1] == (frozenset({"place"}) if avoided else frozenset())


def test_a_place_where_attempts_hang_is_avoided(executor: FakeExecutor) -> None:
    held = begun(executor)
    wait(held, executor, 110)
    assert executor.killed == [1, 1]
    assert executor.avoided[-1] == frozenset({"place"})


def test_deaths_at_several_places_make_none_of_them_bad(executor: FakeExecutor) -> None:
    executor.placing = False
    held = begun(executor)
    for world in range(3):
        executor.place(world, f"place {world}")
        held.step()
        executor.script[world] = [("error", 0)]
        executor.end(world, vanished=True)
    held.step()
    held.step()
    assert executor.avoided == [frozenset()] * 6


def test_a_world_that_waits_for_long_says_what_is_missing(executor: FakeExecutor) -> None:
    executor.placing = False
    held = begun(executor, pending_timeout=30.0)
    for world in (0, 2):
        executor.place(world)
    wait(held, executor, 29)
    assert [status.lacking for status in held.snapshot()] == ["", "", ""]
    wait(held, executor, 1)
    assert [status.lacking for status in held.snapshot()] == ["", "a world needs 8 GPUs", ""]
    shown = [view.cause for view in of_driver(held.snapshot(), TrainingConfig())]
    assert shown == ["", "a world needs 8 GPUs", ""]
    executor.events.append(Started(1, executor.live[1], "host", "place"))
    held.step()
    assert [status.lacking for status in held.snapshot()] == ["", "", ""]
    assert executor.killed == []


def test_the_end_of_an_attempt_long_gone_changes_nothing(run: Run, executor: FakeExecutor) -> None:
    held = begun(executor)
    gone = executor.live[1]
    wait(held, executor, 51)
    executor.events += [Beat(1, gone), Leaving(1, gone), Ended(1, gone, "data")]
    held.step()
    assert causes(run, 1) == ["hung", None]
    assert executor.stopped == []
