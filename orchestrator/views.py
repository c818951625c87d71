"""What there is to see of each world of a run, while it trains and afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.driver import WorldStatus
from orchestrator.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldView:
    """What there is to see of one world."""

    world: int
    state: str
    """pending, waiting, running, done or failed."""
    attempts: int = 0
    cause: str = ""
    """How its last attempt ended, if it ended otherwise than well."""
    step: int | None = None
    steps: int | None = None
    rows_per_second: float | None = None
    loss: float | None = None
    bucket_accuracy: float | None = None
    seconds_left: float | None = None


def of_driver(statuses: Sequence[WorldStatus], batch_size: int) -> list[WorldView]:
    """Return the views of a driver's worlds, which train on batches of `batch_size` rows."""
    return [
        _view(
            status.world,
            status.status,
            status.attempts,
            _ending(status.cause, status.message),
            status.progress,
            batch_size,
        )
        for status in statuses
    ]


def of_run(run: Run) -> list[WorldView]:
    """Return the views of a run's worlds as its storage has them.

    Raises:
        StorageError: a file of the run is altered.
    """
    batch_size = run.identity["training"]["batch_size"]
    views = []
    for state in run.states():
        last = state.attempts[-1] if state.attempts else None
        shown = state.winner or (last.name if last else None)
        ended = [attempt for attempt in state.attempts if attempt.cause]
        ending = _ending(ended[-1].cause, ended[-1].message) if ended else ""
        progress = run.progress(state.index, shown) if shown else {}
        views.append(
            _view(state.index, state.status, len(state.attempts), ending, progress, batch_size)
        )
    return views


def _view(
    world: int,
    state: str,
    attempts: int,
    ending: str,
    progress: Mapping[str, Any],
    batch_size: int,
) -> WorldView:
    step, steps = progress.get("step"), progress.get("steps")
    rate = progress.get("rows_per_second")
    left = (steps - step) * batch_size / rate if step is not None and steps and rate else None
    return WorldView(
        world=world,
        state=state,
        attempts=attempts,
        cause=ending,
        step=step,
        steps=steps,
        rows_per_second=rate,
        loss=progress.get("loss"),
        bucket_accuracy=progress.get("bucket_accuracy"),
        seconds_left=left,
    )


def _ending(cause: str | None, message: str) -> str:
    if cause is None or cause == "done":
        return ""
    words = cause.replace("_", " ")
    # A stop was asked for: there is nothing to explain.
    told = message and cause != "stopped"
    return f"{words}: {message.splitlines()[0]}" if told else words
