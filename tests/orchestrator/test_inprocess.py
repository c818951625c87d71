"""Attempts in this process: the same events as on a cluster, whatever the attempt does."""

from __future__ import annotations

import threading
from collections.abc import Callable
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
from orchestrator.executors.base import Report, Stop, cause_of, explain
from orchestrator.run import Run
from orchestrator.state import Cause
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
from workers.storage import RunPaths, Storage

CONFIG = WorldConfig()
QUICK = RetryConfig(backoff_seconds=0.0, backoff_cap_seconds=0.0)
PATIENCE = 30.0
"""Seconds after which a test that waits for a thread has failed."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(str(tmp_path / "run"), {"seed": 3}, {"worlds": 3})


def succeeds(
    run_uri: str,
    config: WorldConfig,
    world: int,
    attempt: str,
    *,
    stop: Stop,
    report: Report,
    beat: Callable[[], None],
) -> dict[str, Any]:
    report({"step": 1})
    storage = Storage(run_uri)
    storage.commit(RunPaths(storage).final(world, attempt), {"model.safetensors": b"weights"})
    return {"world": world}


def train(run: Run, attempt: AttemptFunction, **settings: Any) -> Summary:
    executor = InProcessExecutor(run.uri, CONFIG, attempt=attempt, **settings)
    try:
        return Driver(run, executor, retry=QUICK).run_to_end()
    finally:
        executor.close()


def raising(error: BaseException) -> AttemptFunction:
    def attempt(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        raise error

    return attempt


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
    assert ended == Ended(2, "01-a", "done", receipt={"world": 2})


def test_a_world_that_always_fails_stops_no_other(run: Run) -> None:
    def one_fails(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        if world == 1:
            raise TrainingError("expected a finite loss, found nan")
        return succeeds(run_uri, config, world, attempt, stop=stop, report=report, beat=beat)

    summary = train(run, one_fails)
    assert summary.done == (0, 2)
    assert summary.failed == {1: "expected a finite loss, found nan"}
    assert len(run.state(1).attempts) == QUICK.error


def test_attempts_run_side_by_side_if_asked_to(run: Run) -> None:
    both = threading.Barrier(2)

    def meets_another(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        both.wait(PATIENCE)
        return succeeds(run_uri, config, world, attempt, stop=stop, report=report, beat=beat)

    run.change_settings({"worlds": 4})
    assert train(run, meets_another, parallel=2).complete


def test_one_attempt_runs_at_a_time_unless_asked_otherwise(run: Run) -> None:
    alone = threading.Lock()

    def needs_to_be_alone(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        assert alone.acquire(blocking=False)
        receipt = succeeds(run_uri, config, world, attempt, stop=stop, report=report, beat=beat)
        alone.release()
        return receipt

    assert train(run, needs_to_be_alone).complete
    assert [len(state.attempts) for state in run.states()] == [1, 1, 1]


def test_stopping_reaches_the_attempt(run: Run) -> None:
    executor: InProcessExecutor

    def waits(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        assert not stop()
        executor.stop(world)
        assert stop()
        raise Stopped("as asked")

    executor = InProcessExecutor(run.uri, CONFIG, attempt=waits)
    executor.start(0, "01-a")
    assert events_of(executor)[-1].cause == "stopped"


def test_closing_stops_what_runs(run: Run) -> None:
    begun = threading.Event()
    seen = []

    def waits(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        begun.set()
        while not stop():
            pass
        seen.append(world)
        raise Stopped("as asked")

    executor = InProcessExecutor(run.uri, CONFIG, attempt=waits)
    executor.start(0, "01-a")
    assert begun.wait(PATIENCE)
    executor.close()
    assert seen == [0]


def test_signs_of_life_are_told_once_for_many(run: Run) -> None:
    told, go_on = threading.Event(), threading.Event()

    def beats(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        for _ in range(1000):
            beat()
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

    def hangs_at_first(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        if world == 0:
            hanging.set()
            assert free.wait(PATIENCE)
        return succeeds(run_uri, config, world, attempt, stop=stop, report=report, beat=beat)

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

    def waits(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        begun.append(attempt)
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
