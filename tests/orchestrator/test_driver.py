"""The state machine of worlds, with an executor that does as it is told and a clock that is set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.config import RetryConfig
from orchestrator.driver import Summary, WorldStatus
from orchestrator.executors import Ended, Progress, Started
from orchestrator.run import Run
from orchestrator.state import Attempt, Cause, WorldState
from tests.orchestrator.fakes import FakeExecutor, causes, drive, driver, make_run
from workers.errors import RunError


@pytest.fixture
def run() -> Run:
    return make_run()


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


def test_weights_that_come_of_other_rows_do_not_count(run: Run) -> None:
    executor = FakeExecutor(run)
    one, other = {"a": {"0": ["0" * 32]}}, {"a": {"0": ["1" * 32]}}
    executor.contents = {0: one, 1: other, 2: one}
    summary = drive(executor, max_parallel=1)
    assert summary.done == (0, 2)
    assert causes(run, 1) == ["data"]
    assert "its weights do not count: a, row group 0" in summary.failed[1]
    assert run.dataset()["content"] == one
    assert run.finished(1) is None
    again = FakeExecutor(run)
    again.contents = {1: one}
    assert drive(again).complete


def test_a_driver_that_comes_late_looks_at_what_was_read_too(run: Run) -> None:
    late = FakeExecutor(run)
    late.contents = {0: {"a": {"0": ["0" * 32]}}, 1: {"a": {"0": ["1" * 32]}}}
    late.start(0, "01-a")
    late.start(1, "01-a")
    executor = FakeExecutor(run)
    assert drive(executor).complete
    assert [attempt for world, attempt in executor.started if world == 1] != ["01-a"]
    assert run.state(1).winner != "01-a"


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


@pytest.mark.parametrize(
    ("cause", "advice"), [("out_of_memory", "run fewer worlds on a machine"), ("data", "")]
)
def test_some_ends_are_final(run: Run, cause: Cause, advice: str) -> None:
    summary = drive(FakeExecutor(run, {0: [(cause, 0)]}))
    assert list(summary.failed) == [0]
    assert summary.failed[0].startswith(f"{cause} of 0")
    assert advice in summary.failed[0]
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


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def left_open(run: Run, world: int, **told: Any) -> None:
    """Let a driver that is dead have left an attempt at a world, which began at noon."""
    lost = Attempt(name="01-dead", started_at=NOON.isoformat(), node="host")
    run.save(WorldState(index=world, status="running", attempts=(lost,)))
    if told:
        run.storage.write_json(run.paths.progress(world, "01-dead"), told)


@pytest.mark.parametrize(
    ("told", "hours"),
    [
        ({"seconds": 1800.0}, 0.5),
        ({}, 0.0),
        # The clocks of two machines differ.
        ({"seconds": 1e9}, 24.0),
        ({"seconds": -1.0}, 0.0),
        ({"seconds": "many"}, 24.0),
    ],
)
def test_a_dead_drivers_attempt_ended_when_it_was_last_heard_of(
    run: Run, told: dict[str, Any], hours: float
) -> None:
    left_open(run, 1, **told)
    run.storage.commit(run.paths.checkpoint(1, "01-dead", 7), {"state.json": b"{}"})
    driver(FakeExecutor(run), now=lambda: NOON + timedelta(days=1))
    (lost,) = run.state(1).attempts
    assert lost.ended_at == (NOON + timedelta(hours=hours)).isoformat()
    assert lost.steps == 7


def test_altered_progress_of_a_dead_drivers_attempt_stops_nobody(run: Run) -> None:
    left_open(run, 1)
    run.storage.write_bytes(run.paths.progress(1, "01-dead"), b"{")
    assert drive(FakeExecutor(run)).done == (0, 1, 2)


def test_worlds_that_were_not_chosen_run_no_more_either(run: Run) -> None:
    left_open(run, 0, seconds=60.0)
    left_open(run, 2)
    run.storage.commit(run.paths.final(2, "01-dead"), {"model.safetensors": b"w"})
    executor = FakeExecutor(run)
    assert drive(executor, only=[1]).done == (1,)
    assert [world for world, _ in executor.started] == [1]
    assert [run.state(world).status for world in (0, 2)] == ["pending", "done"]
    assert causes(run, 0) == ["stopped"]


def test_what_others_had_failed_stays_failed(run: Run) -> None:
    drive(FakeExecutor(run, {1: [("error", 0)] * 3}))
    before = run.state(1)
    drive(FakeExecutor(run), only=[0])
    assert run.state(1) == before


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
    executor.events.append(Started(0, executor.live[0], "host", "place"))
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


def test_weights_of_an_attempt_that_was_thought_dead_count(run: Run) -> None:
    executor = FakeExecutor(run, {1: [("preemption", 0)]})
    executor.holding = True
    held = driver(executor)
    held.step()
    thought_dead = executor.live[1]
    for world in range(3):
        executor.end(world)
    held.step()
    run.storage.commit(run.paths.final(1, thought_dead), {"model.safetensors": b"w"})
    assert held.run_to_end().complete
    assert run.state(1).winner == thought_dead
    assert len(executor.started) == 3


def test_the_winner_that_was_written_down_stays_the_one_that_counts(run: Run) -> None:
    drive(FakeExecutor(run, {1: [("preemption", 0)]}))
    first, second = run.state(1).attempts
    run.storage.commit(run.paths.final(1, first.name), {"model.safetensors": b"late"})
    finished = run.finished(1)
    assert finished is not None and finished[0] == second.name
    assert drive(FakeExecutor(run)).complete
    assert run.state(1).winner == second.name


def test_a_world_whose_weights_are_lost_is_trained_again(run: Run) -> None:
    drive(FakeExecutor(run))
    (lost,) = run.state(1).attempts
    run.storage.delete(run.paths.attempt(1, lost.name))
    assert run.finished(1) is None
    again = FakeExecutor(run)
    assert drive(again).complete
    assert [world for world, _ in again.started] == [1]
    assert run.state(1).winner == again.started[0][1]
