"""What there is to see of each world of a run, while it trains and afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.driver import WorldStatus
from orchestrator.run import Run
from orchestrator.state import WorldState
from workers.errors import StorageError

_LARGEST = 1e300
_NUMBERS = ("step", "steps", "rows_per_second", "loss", "bucket_accuracy", "left_out_rows")


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
    trouble: str = ""
    """What goes wrong while it trains on."""
    left_out_rows: int = 0
    """Rows that it leaves out because they cannot be trained on (`data.on_bad_shard`)."""


def of_driver(statuses: Sequence[WorldStatus], batch_size: int) -> list[WorldView]:
    """Return the views of a driver's worlds, which train on batches of `batch_size` rows."""
    return [
        _view(
            status.world,
            status.status,
            status.attempts,
            status.lacking or _ending(status.cause, status.message),
            status.progress,
            batch_size,
        )
        for status in statuses
    ]


def of_run(run: Run, *, driven: bool) -> list[WorldView]:
    """Return the views of a run's worlds as its storage has them.

    Args:
        run: the run.
        driven: whether a driver is at work. Without one nothing runs, whatever the storage says.

    Raises:
        StorageError: a file of the run is altered.
    """
    batch_size = run.identity["training"]["batch_size"]
    return [_stored(run, state, driven, batch_size) for state in run.states()]


def _stored(run: Run, state: WorldState, driven: bool, batch_size: int) -> WorldView:
    last = state.attempts[-1] if state.attempts else None
    shown = state.winner or (last.name if last else None)
    ended = [attempt for attempt in state.attempts if attempt.cause]
    ending = _ending(ended[-1].cause, ended[-1].message) if ended else ""
    lost = state.status == "running" and not driven
    return _view(
        state.index,
        "pending" if lost else state.status,
        len(state.attempts),
        "its driver ended before it" if lost else ending,
        _progress(run, state.index, shown) if shown else {},
        batch_size,
    )


def _progress(run: Run, world: int, attempt: str) -> dict[str, Any]:
    values = run.progress(world, attempt)
    for name in _NUMBERS:
        value = values.get(name)
        if not (value is None or (type(value) in (int, float) and abs(value) <= _LARGEST)):
            where = run.storage.where(run.paths.progress(world, attempt))
            raise StorageError(
                f"{where}: expected a number as {name}, found {value!r}; the file was altered:"
                " remove it"
            )
    return values


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
        trouble=str(progress.get("trouble") or ""),
        left_out_rows=progress.get("left_out_rows") or 0,
    )


def _ending(cause: str | None, message: str) -> str:
    if cause is None or cause == "done":
        return ""
    words = cause.replace("_", " ")
    # A stop was asked for: there is nothing to explain.
    told = message and cause != "stopped"
    return f"{words}: {message.splitlines()[0]}" if told else words
