"""The state machine of worlds, with an executor that does as it is told and a clock that is set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import RetryConfig
from orchestrator.driver import Driver, Summary, WorldStatus
from orchestrator.executors import Ended, Event, Progress, Started
from orchestrator.run import Run
from orchestrator.state import Attempt, Cause, WorldState
from workers.errors import RunError

RETRY = RetryConfig(error=3, out_of_memory=1, backoff_seconds=2.0, backoff_cap_seconds=60.0)


class FakeExecutor:
    """Plays a script: for each world a list of ends, one an attempt; then all end done.

    Args:
        run: whose files the attempts write.
        script: by world; each item a cause, or a cause and the step of a checkpoint.
        slots: attempts at the same time.
    """

    def __init__(
        self,
        run: Run,
        script: dict[int, list[tuple[Cause, int]]] | None = None,
        *,
        slots: int | None = None,
    ) -> None:
        self.run = run
        self.script = {world: list(ends) for world, ends in (script or {}).items()}
        self.now = 0.0
        self.room = slots
        self.live: dict[int, str] = {}
        self.started: list[tuple[int, str]] = []
        self.started_at: list[float] = []
        self.events: list[Event] = []
        self.stopped: list[int] = []
        self.killed: list[int] = []
        self.placing = True
        self.holding = False
        self.most = 0

    def clock(self) -> float:
        return self.now

    def slots(self) -> int | None:
        return self.room

    def start(self, world: int, attempt: str) -> None:
        assert world not in self.live
        self.live[world] = attempt
        self.most = max(self.most, len(self.live))
        self.started.append((world, attempt))
        self.started_at.append(self.now)
        if self.placing:
            self.events.append(Started(world, attempt, "host"))
        if self.placing and not self.holding:
            self.end(world)

    def end(self, world: int) -> None:
        cause, step = self.script[world].pop(0) if self.script.get(world) else ("done", 0)
        attempt = self.live.pop(world)
        paths = self.run.paths
        if step:
            self.run.storage.commit(paths.checkpoint(world, attempt, step), {"state.json": b"{}"})
        if cause == "done":
            self.run.storage.commit(paths.final(world, attempt), {"model.safetensors": b"w"})
        self.events.append(Ended(world, attempt, cause, f"{cause} of {world}"))

    def poll(self) -> Sequence[Event]:
        events, self.events = self.events, []
        return events

    def wait(self, seconds: float) -> None:
        if not self.events:
            self.now += max(seconds, 0.01)

    def stop(self, world: int) -> None:
        self.stopped.append(world)
        self.script[world] = [("stopped", 0)]
        self.end(world)

    def kill(self, world: int) -> None:
        self.killed.append(world)
        del self.live[world]

    def lacking(self) -> str:
        return "a world needs 8 GPUs"

    def close(self) -> None:
        self.live.clear()


@pytest.fixture
def run() -> Run:
    return make_run()


def make_run(worlds: int = 3) -> Run:
    """Return a new run on a filesystem of Arrow's that lives in memory."""
    return Run.create("mock:///bucket/run", {"seed": 5}, {"worlds": worlds})


def driver(executor: FakeExecutor, **options: Any) -> Driver:
    return Driver(executor.run, executor, **{"retry": RETRY, "clock": executor.clock, **options})


def drive(executor: FakeExecutor, **options: Any) -> Summary:
    return driver(executor, **options).run_to_end()


def causes(run: Run, world: int) -> list[Cause | None]:
    return [attempt.cause for attempt in run.state(world).attempts]


def test_worlds_are_taken_to_done(run: Run) -> None:
    summary = drive(FakeExecutor(run))
    assert summary == Summary(done=(0, 1, 2), failed={}, pending=(), error=None)
    assert summary.complete
    for state in run.states():
        (attempt,) = state.attempts
        assert (state.status, state.winner) == ("done", attempt.name)
        assert (attempt.cause, attempt.node) == ("done", "host")
        assert attempt.ended_at is not None


@pytest.mark.parametrize(
    ("slots", "max_parallel", "most"),
    [(None, None, 6), (4, None, 4), (None, 3, 3), (4, 3, 3), (2, 5, 2), (0, None, 1)],
)
def test_no_more_worlds_run_than_there_is_room_for(
    slots: int | None, max_parallel: int | None, most: int
) -> None:
    executor = FakeExecutor(make_run(worlds=6), slots=slots)
    executor.holding = True
    held = driver(executor, max_parallel=max_parallel)
    while not held.finished:
        held.step()
        if executor.live:
            executor.end(min(executor.live))
    assert executor.most == most
    assert held.summary().done == tuple(range(6))


def test_a_finished_run_is_left_alone(run: Run) -> None:
    drive(FakeExecutor(run))
    before = run.states()
    again = FakeExecutor(run)
    assert drive(again).done == (0, 1, 2)
    assert again.started == []
    assert run.states() == before


def test_more_worlds_can_be_asked_for_later(run: Run) -> None:
    drive(FakeExecutor(run))
    run.change_settings({"worlds": 5})
    more = FakeExecutor(run)
    assert drive(more).done == (0, 1, 2, 3, 4)
    assert [world for world, _ in more.started] == [3, 4]


@pytest.mark.parametrize("cause", ["error", "hung"])
def test_errors_have_a_budget(run: Run, cause: Cause) -> None:
    summary = drive(FakeExecutor(run, {1: [(cause, 0)] * 9}))
    assert summary.done == (0, 2)
    assert summary.failed == {1: f"{cause} of 1"}
    assert not summary.complete
    assert causes(run, 1) == [cause] * 3


def test_errors_and_hangs_share_a_budget(run: Run) -> None:
    drive(FakeExecutor(run, {1: [("error", 0), ("hung", 0), ("error", 0)]}))
    assert run.state(1).status == "failed"


def test_a_new_checkpoint_renews_the_budget(run: Run) -> None:
    ends: list[tuple[Cause, int]] = [("error", 0), ("error", 0), ("error", 10), ("error", 0)]
    drive(FakeExecutor(run, {1: [*ends, ("error", 20), ("error", 20)]}))
    assert run.state(1).status == "done"
    assert [attempt.steps for attempt in run.state(1).attempts] == [0, 0, 10, 10, 20, 20, 20]


def test_an_old_checkpoint_written_again_renews_nothing(run: Run) -> None:
    drive(FakeExecutor(run, {1: [("error", 10)] * 9}))
    assert causes(run, 1) == ["error"] * 3


@pytest.mark.parametrize("cause", ["out_of_memory", "data"])
def test_some_ends_are_final(run: Run, cause: Cause) -> None:
    summary = drive(FakeExecutor(run, {0: [(cause, 0)]}))
    assert summary.failed == {0: f"{cause} of 0"}
    assert summary.done == (1, 2)


def test_preemptions_are_unlimited_unless_said_otherwise(run: Run) -> None:
    drive(FakeExecutor(run, {1: [("preemption", 0)] * 20}))
    assert causes(run, 1) == ["preemption"] * 20 + ["done"]


def test_preemptions_can_have_a_budget(run: Run) -> None:
    retry = RetryConfig(preemption=2, backoff_seconds=0)
    summary = drive(FakeExecutor(run, {1: [("preemption", 0)] * 20}), retry=retry)
    assert list(summary.failed) == [1]
    assert len(causes(run, 1)) == 2


def test_preemptions_count_against_no_other_budget(run: Run) -> None:
    ends: list[tuple[Cause, int]] = [("error", 0), ("preemption", 0), ("preemption", 0)]
    drive(FakeExecutor(run, {1: [*ends, ("error", 0)]}))
    assert run.state(1).status == "done"


def test_a_bad_config_ends_the_run_at_once(run: Run) -> None:
    executor = FakeExecutor(run, {0: [("config", 0)]})
    executor.holding = True
    held = driver(executor, max_parallel=2)
    held.step()
    executor.end(0)
    summary = held.run_to_end()
    assert summary.error == "config of 0"
    assert summary.failed == {0: "config of 0"}
    assert summary.pending == (1, 2)
    assert executor.stopped == [1]
    assert [world for world, _ in executor.started] == [0, 1]


def test_pauses_double_up_to_a_cap_and_are_the_same_every_time() -> None:
    retry = RetryConfig(backoff_seconds=2.0, backoff_cap_seconds=20.0)
    pauses = []
    for _ in range(2):
        executor = FakeExecutor(make_run(worlds=1), {0: [("preemption", 0)] * 6})
        drive(executor, retry=retry)
        times = executor.started_at
        pauses.append([after - before for before, after in pairwise(times)])
    assert pauses[0] == pauses[1]
    for pause, longest in zip(pauses[0], [2, 4, 8, 16, 20, 20], strict=True):
        assert longest / 2 <= pause <= longest + 0.1


def test_a_world_in_a_pause_holds_up_no_other(run: Run) -> None:
    executor = FakeExecutor(run, {0: [("error", 0)]}, slots=1)
    drive(executor)
    assert [world for world, _ in executor.started] == [0, 1, 2, 0]


def test_what_a_dead_driver_left_open_is_tried_again(run: Run) -> None:
    lost = Attempt(name="01-dead", started_at="then")
    run.save(WorldState(index=1, status="running", attempts=(lost,)))
    run.storage.commit(run.paths.checkpoint(1, "02-unknown", 7), {"state.json": b"{}"})
    executor = FakeExecutor(run)
    drive(executor)
    first, second = run.state(1).attempts
    assert (first.name, first.cause) == ("01-dead", "stopped")
    assert first.ended_at is not None
    assert second.name.startswith("03-")


def test_finished_weights_that_no_state_names_are_adopted(run: Run) -> None:
    lost = Attempt(name="01-dead", started_at="then")
    run.save(WorldState(index=1, status="running", attempts=(lost,)))
    run.storage.commit(run.paths.final(1, "01-dead"), {"model.safetensors": b"w"})
    executor = FakeExecutor(run)
    assert drive(executor).done == (0, 1, 2)
    assert [world for world, _ in executor.started] == [0, 2]
    assert run.state(1).winner == "01-dead"


def test_weights_committed_before_a_crash_count(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.holding = True
    held = driver(executor, max_parallel=1)
    held.step()
    attempt = executor.live[0]
    run.storage.commit(run.paths.final(0, attempt), {"model.safetensors": b"w"})
    executor.script[0] = [("error", 0)]
    executor.end(0)
    held.step()
    assert (run.state(0).status, run.state(0).winner) == ("done", attempt)
    assert causes(run, 0) == ["error"]


def test_success_without_weights_is_an_error(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.holding = True
    held = driver(executor, max_parallel=1)
    held.step()
    executor.events.append(Ended(0, executor.live.pop(0), "done"))
    held.step()
    assert causes(run, 0)[0] == "error"
    assert "committed no weights" in run.state(0).attempts[0].message


def test_only_the_chosen_worlds_are_taken_care_of(run: Run) -> None:
    executor = FakeExecutor(run)
    assert drive(executor, only=[2, 1]).done == (1, 2)
    assert [world for world, _ in executor.started] == [1, 2]
    assert run.state(0) == WorldState(index=0)


@pytest.mark.parametrize("only", [[3], [-1], [0, 7]])
def test_worlds_that_are_not_there_are_refused(run: Run, only: list[int]) -> None:
    with pytest.raises(RunError, match="expected worlds from 0 to 2, found"):
        driver(FakeExecutor(run), only=only)


def test_failed_worlds_are_tried_again_with_a_fresh_budget(run: Run) -> None:
    drive(FakeExecutor(run, {1: [("error", 0)] * 3}))
    again = FakeExecutor(run, {1: [("error", 0)] * 2})
    assert drive(again).complete
    assert causes(run, 1) == ["error"] * 5 + ["done"]
    assert len({attempt.name for attempt in run.state(1).attempts}) == 6


def test_stopping_lets_worlds_checkpoint_and_leaves_them_pending(run: Run) -> None:
    executor = FakeExecutor(run, slots=2)
    executor.holding = True
    held = driver(executor)
    held.step()
    held.stop()
    summary = held.run_to_end()
    assert executor.stopped == [0, 1]
    assert summary.pending == (0, 1, 2)
    assert summary.error is None
    assert causes(run, 0) == ["stopped"]
    assert drive(FakeExecutor(run)).complete


def test_killing_waits_for_nobody(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.holding = True
    held = driver(executor)
    held.step()
    held.kill()
    assert held.run_to_end().pending == (0, 1, 2)
    assert executor.killed == [0, 1, 2]
    assert executor.stopped == []


def test_a_run_that_cannot_be_placed_says_what_is_missing(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.placing = False
    summary = drive(executor, pending_timeout=30.0)
    assert summary.error is not None
    assert "a world needs 8 GPUs" in summary.error
    assert 30.0 <= executor.now < 40.0
    assert summary.pending == (0, 1, 2)
    assert sorted(executor.killed) == [0, 1, 2]


def test_one_world_that_is_placed_lets_the_others_wait(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.placing = False
    held = driver(executor, pending_timeout=30.0)
    held.step()
    executor.events.append(Started(0, executor.live[0], "host"))
    for _ in range(5):
        executor.now += 100.0
        held.step()
    assert executor.killed == []
    assert [status.status for status in held.snapshot()] == ["running", "waiting", "waiting"]


def test_the_listener_sees_every_change(run: Run) -> None:
    seen: list[Sequence[WorldStatus]] = []
    executor = FakeExecutor(run, {0: [("error", 0)]})
    executor.holding = True
    held = driver(executor, max_parallel=1, listener=seen.append, only=[0])
    held.step()
    executor.events.append(Progress(0, executor.live[0], {"step": 5}))
    held.step()
    executor.end(0)
    held.step()
    held.step()
    looks = [(status.status, status.attempts, status.cause) for (status,) in seen]
    assert looks == [
        ("waiting", 1, None),
        ("running", 1, None),
        ("pending", 1, "error"),
    ]
    assert seen[1][0].progress == {"step": 5}
    assert seen[2][0].message == "error of 0"


def test_a_heartbeat_that_raises_ends_the_driver(run: Run) -> None:
    def lost() -> None:
        raise RunError("another driver took over")

    executor = FakeExecutor(run)
    with pytest.raises(RunError, match="took over"):
        drive(executor, heartbeat=lost)
    assert executor.started == []


CAUSES: list[Cause] = [
    "done",
    "stopped",
    "preemption",
    "error",
    "out_of_memory",
    "hung",
    "data",
    "config",
]
Script = dict[int, list[tuple[Cause, int]]]
ends = st.lists(st.tuples(st.sampled_from(CAUSES[:-1]), st.integers(0, 3)), max_size=8)


class Unruly(FakeExecutor):
    """Ends attempts in any order, and tells things twice, late, or of attempts long gone."""

    def __init__(self, run: Run, script: Script, order: Random) -> None:
        super().__init__(run, script, slots=2)
        self.holding = True
        self.choose = order.randrange

    def poll(self) -> Sequence[Event]:
        if self.live and self.choose(2):
            self.end(sorted(self.live)[self.choose(len(self.live))])
        if self.started and self.choose(2):
            world, attempt = self.started[self.choose(len(self.started))]
            if self.live.get(world) != attempt:
                cause = CAUSES[self.choose(len(CAUSES))]
                self.events += [Ended(world, attempt, cause), Started(world, attempt, "late")]
        return super().poll()


@given(st.fixed_dictionaries({world: ends for world in range(3)}), st.integers(0, 2**32))
@settings(max_examples=200)
def test_any_order_of_events_ends_every_world(script: Script, order: int) -> None:
    run = make_run()
    executor = Unruly(run, script, Random(order))
    summary = drive(executor)
    assert sorted([*summary.done, *summary.failed]) == [0, 1, 2]
    assert executor.most <= 2
    for state in run.states():
        assert_sound(run, state, [name for world, name in executor.started if world == state.index])


def assert_sound(run: Run, state: WorldState, started: list[str]) -> None:
    assert [attempt.name for attempt in state.attempts] == started
    assert all(attempt.cause and attempt.ended_at for attempt in state.attempts)
    finals = list(finished(run, state.index))
    # One winner, whose weights are there; and nothing was trained again once they were.
    assert finals == ([state.winner] if state.winner else [])
    assert (state.status == "done") == bool(finals)
    if state.winner:
        assert state.winner == state.attempts[-1].name


def finished(run: Run, world: int) -> Iterator[str]:
    for attempt in run.paths.attempts(world):
        if run.storage.committed(run.paths.final(world, attempt)):
            yield attempt
