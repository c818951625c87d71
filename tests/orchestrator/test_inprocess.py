"""Attempts in this process: the same events as on a cluster, whatever the attempt does."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config import RetryConfig
from orchestrator.driver import Driver, Summary
from orchestrator.executors import (
    AttemptFunction,
    Beat,
    Ended,
    InProcessExecutor,
    Progress,
    Started,
)
from orchestrator.executors.base import cause_of, explain
from orchestrator.run import Run
from orchestrator.state import Cause
from tests.orchestrator.attempts import Call, attempt
from workers.attempt import Stopped
from workers.config import WorldConfig
from workers.errors import (
    BadShardError,
    ConfigError,
    DataError,
    ManyworldsError,
    StorageError,
    TrainingError,
)

CONFIG = WorldConfig()
QUICK = RetryConfig(backoff_seconds=0.0, backoff_cap_seconds=0.0)
PATIENCE = 30.0
"""Seconds after which a test that waits for a thread has failed."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(str(tmp_path / "run"), {"seed": 3}, {"worlds": 3})


@attempt
def succeeds(call: Call) -> Any:
    call.report({"step": 1})
    return call.commit()


def train(run: Run, attempt: AttemptFunction, **settings: Any) -> Summary:
    executor = InProcessExecutor(run.uri, CONFIG, attempt=attempt, **settings)
    try:
        return Driver(run, executor, retry=QUICK).run_to_end()
    finally:
        executor.close()


def raising(error: BaseException) -> AttemptFunction:
    @attempt
    def fails(call: Call) -> Any:
        raise error

    return fails


def events_of(executor: InProcessExecutor) -> list[Any]:
    events: list[Any] = []
    while not any(isinstance(event, Ended) for event in events):
        executor.wait(PATIENCE)
        new = executor.poll()
        assert new
        events += new
    return events


def test_worlds_are_taken_to_done(run: Run) -> None:
    assert train(run, succeeds).done == (0, 1, 2)
    assert all(state.attempts[0].node for state in run.states())


def test_an_attempt_is_told_from_start_to_end(run: Run) -> None:
    executor = InProcessExecutor(run.uri, CONFIG, attempt=succeeds)
    executor.start(2, "01-a")
    started, progress, ended = events_of(executor)
    assert isinstance(started, Started)
    assert progress == Progress(2, "01-a", {"step": 1})
    assert ended == Ended(2, "01-a", "done", receipt={"world": 2, "attempt": "01-a"})


def test_a_world_that_always_fails_stops_no_other(run: Run) -> None:
    @attempt
    def one_fails(call: Call) -> Any:
        if call.world == 1:
            raise TrainingError("expected a finite loss, found nan")
        return call.pass_to(succeeds)

    summary = train(run, one_fails)
    assert summary.done == (0, 2)
    assert summary.failed == {1: "expected a finite loss, found nan"}
    assert len(run.state(1).attempts) == QUICK.error


def test_attempts_run_side_by_side_if_asked_to(run: Run) -> None:
    both = threading.Barrier(2)

    @attempt
    def meets_another(call: Call) -> Any:
        both.wait(PATIENCE)
        return call.pass_to(succeeds)

    run.change_settings({"worlds": 4})
    assert train(run, meets_another, parallel=2).complete


def test_one_attempt_runs_at_a_time_unless_asked_otherwise(run: Run) -> None:
    alone = threading.Lock()

    @attempt
    def needs_to_be_alone(call: Call) -> Any:
        assert alone.acquire(blocking=False)
        receipt = call.pass_to(succeeds)
        alone.release()
        return receipt

    assert train(run, needs_to_be_alone).complete
    assert [len(state.attempts) for state in run.states()] == [1, 1, 1]


def test_stopping_reaches_the_attempt(run: Run) -> None:
    executor: InProcessExecutor

    @attempt
    def waits(call: Call) -> Any:
        assert not call.stop()
        executor.stop(call.world)
        assert call.stop()
        raise Stopped("as asked")

    executor = InProcessExecutor(run.uri, CONFIG, attempt=waits)
    executor.start(0, "01-a")
    ended = events_of(executor)[-1]
    # A stop that was asked for is no error that nobody foresaw.
    assert (ended.cause, ended.message) == ("stopped", "as asked")


def test_closing_stops_what_runs(run: Run) -> None:
    begun = threading.Event()
    seen = []

    @attempt
    def waits(call: Call) -> Any:
        begun.set()
        while not call.stop():
            pass
        seen.append(call.world)
        raise Stopped("as asked")

    executor = InProcessExecutor(run.uri, CONFIG, attempt=waits)
    executor.start(0, "01-a")
    assert begun.wait(PATIENCE)
    executor.close()
    assert seen == [0]


def test_signs_of_life_are_told_once_for_many(run: Run) -> None:
    told, go_on = threading.Event(), threading.Event()

    @attempt
    def beats(call: Call) -> Any:
        for _ in range(1000):
            call.beat()
        told.set()
        assert go_on.wait(PATIENCE)
        return {}

    executor = InProcessExecutor(run.uri, CONFIG, attempt=beats)
    executor.start(1, "01-a")
    assert told.wait(PATIENCE)
    assert [event for event in executor.poll() if isinstance(event, Beat)] == [Beat(1, "01-a")]
    assert executor.poll() == []
    go_on.set()
    assert not any(isinstance(event, Beat) for event in events_of(executor))


def test_an_attempt_that_hangs_gives_its_room_to_another(run: Run) -> None:
    hanging, free = threading.Event(), threading.Event()

    @attempt
    def hangs_at_first(call: Call) -> Any:
        if call.world == 0:
            hanging.set()
            assert free.wait(PATIENCE)
        return call.pass_to(succeeds)

    executor = InProcessExecutor(run.uri, CONFIG, attempt=hangs_at_first, grace=0.0)
    executor.start(0, "01-a")
    assert hanging.wait(PATIENCE)
    executor.kill(0)
    executor.start(1, "01-b")
    assert [event.world for event in events_of(executor) if isinstance(event, Ended)] == [1]
    # It does not wait for the one that hangs.
    executor.close()
    free.set()


def test_an_attempt_that_is_killed_before_it_has_room_never_begins(run: Run) -> None:
    inside, free = threading.Event(), threading.Event()
    begun = []

    @attempt
    def waits(call: Call) -> Any:
        begun.append(call.attempt)
        inside.set()
        assert free.wait(PATIENCE)
        return {}

    executor = InProcessExecutor(run.uri, CONFIG, attempt=waits, grace=PATIENCE)
    executor.start(0, "01-a")
    assert inside.wait(PATIENCE)
    executor.start(1, "01-b")
    executor.kill(1)
    free.set()
    executor.close()
    assert begun == ["01-a"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ConfigError("x"), "config"),
        (DataError("x"), "data"),
        (BadShardError("x"), "data"),
        (StorageError("x"), "error"),
        (TrainingError("x"), "error"),
        (ManyworldsError("x"), "error"),
        (Stopped("x"), "stopped"),
        (MemoryError("x"), "out_of_memory"),
        (torch.OutOfMemoryError("x"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (RuntimeError("x"), "error"),
        (SystemExit(3), "error"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_every_error_has_its_cause(run: Run, error: BaseException, cause: Cause) -> None:
    assert cause_of(error) == cause
    executor = InProcessExecutor(run.uri, CONFIG, attempt=raising(error))
    executor.start(0, "01-a")
    ended = events_of(executor)[-1]
    assert (ended.world, ended.attempt, ended.cause) == (0, "01-a", cause)
    assert ended.message


def test_an_error_meant_for_users_is_told_as_it_is() -> None:
    assert explain(DataError("expected a, found b; do c")) == "expected a, found b; do c"


def test_an_error_that_nobody_foresaw_says_where_it_arose() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        divmod(1, 0)
    told = explain(caught.value)
    assert told.startswith("ZeroDivisionError: ")
    assert "(test_inprocess.py, line " in told
