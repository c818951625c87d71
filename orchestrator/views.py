"""What there is to see of each world of a run, while it trains and afterwards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.driver import WorldStatus
from orchestrator.run import Run
from orchestrator.state import WorldState
from workers.config import TrainingConfig
from workers.errors import StorageError
from workers.storage import is_number

_NUMBERS = (
    "step",
    "steps",
    "epoch",
    "rows_per_second",
    "loss",
    "bucket_accuracy",
    "left_out_rows",
)
_REACHED = ("step", "steps", "epoch", "loss", "bucket_accuracy", "left_out_rows")
"""What of them is a world's, whichever attempt told it; how fast and where is an attempt's."""
_LOOKS = 4
"""Attempts of which the progress is looked for, the newest first."""
_PLACED = ("running", "done", "failed")
"""States in which a world's last machine tells something."""
_MAKERS = {"NVIDIA", "AMD", "Tesla", "GeForce", "Quadro", "Instinct", "Radeon"}
_MEMORY = re.compile(r"\d+ ?GB.*|HBM.*|PCIe.*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldView:
    """What there is to see of one world."""

    world: int
    state: str
    """pending, waiting, running, done or failed."""
    attempts: int = 0
    cause: str = ""
    """How its last attempt ended, if it ended otherwise than well, or what it waits for."""
    ends: int = 0
    """Attempts that are over."""
    ended: str = ""
    """How the last of those ended: one of `orchestrator.state.Cause`."""
    device: str = ""
    """What computes, in short: cpu, or the name of a GPU; empty: not known."""
    node: str = ""
    """The machine of its last attempt; empty: none, or not known."""
    epoch: int | None = None
    """Which epoch it is in, from 1."""
    epochs: int | None = None
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


def of_driver(statuses: Sequence[WorldStatus], training: TrainingConfig) -> list[WorldView]:
    """Return the views of a driver's worlds, which train as `training` says."""
    return [
        _view(
            status.world,
            status.status,
            status.progress,
            training.batch_size,
            attempts=status.attempts,
            cause=status.lacking or _ending(status.cause, status.message),
            ends=status.ends,
            ended=status.cause or "",
            node=status.node if status.status in _PLACED else "",
            epochs=training.epochs,
        )
        for status in statuses
    ]


def of_run(run: Run, states: Sequence[WorldState], *, driven: bool) -> list[WorldView]:
    """Return the views of a run's worlds as its storage has them.

    Args:
        run: the run.
        states: of all its worlds, in order.
        driven: whether a driver is at work. Without one nothing runs, whatever the storage says.

    Raises:
        StorageError: a file of the run is altered.
    """
    return run.each(lambda world: _stored(run, states[world], driven))


def _stored(run: Run, state: WorldState, driven: bool) -> WorldView:
    last = state.attempts[-1] if state.attempts else None
    name = state.winner or (last.name if last else None)
    progress = _progress(run, state.index, name) if name else {}
    ended = [attempt for attempt in state.attempts if attempt.cause]
    ending = _ending(ended[-1].cause, ended[-1].message) if ended else ""
    lost = state.status == "running" and not driven
    # One that told something has a place, kept or not.
    unplaced = state.status == "running" and last and last.node is None and not progress
    status = "pending" if lost else "waiting" if unplaced else state.status
    training = run.identity["training"]
    return _view(
        state.index,
        status,
        progress or _reached(run, state),
        training["batch_size"],
        attempts=len(state.attempts),
        cause="its driver ended before it" if lost else ending,
        ends=len(ended),
        ended=(ended[-1].cause or "") if ended else "",
        node=(last.node or "") if last and status in _PLACED else "",
        epochs=training["epochs"],
    )


def _reached(run: Run, state: WorldState) -> dict[str, Any]:
    """Return how far a world is of which the last attempt told nothing yet."""
    told = () if state.winner else state.attempts[-_LOOKS:-1]
    for attempt in reversed(told):
        if found := _progress(run, state.index, attempt.name):
            return {name: found.get(name) for name in _REACHED}
    return {}


def _progress(run: Run, world: int, attempt: str) -> dict[str, Any]:
    values = run.progress(world, attempt)
    for name in _NUMBERS:
        value = values.get(name)
        if not (value is None or is_number(value)):
            where = run.storage.where(run.paths.progress(world, attempt))
            raise StorageError(
                f"{where}: expected a number as {name}, found {value!r}; the file was altered:"
                " remove it"
            )
    return values


def _view(
    world: int, state: str, progress: Mapping[str, Any], batch_size: int, **known: Any
) -> WorldView:
    step, steps, epoch = (progress.get(name) for name in ("step", "steps", "epoch"))
    rate = progress.get("rows_per_second")
    left = (steps - step) * batch_size / rate if step is not None and steps and rate else None
    return WorldView(
        world=world,
        state=state,
        device=_device(progress.get("device")),
        epoch=None if epoch is None else int(epoch) + 1,
        step=step,
        steps=steps,
        rows_per_second=rate,
        loss=progress.get("loss"),
        bucket_accuracy=progress.get("bucket_accuracy"),
        seconds_left=left,
        trouble=str(progress.get("trouble") or ""),
        left_out_rows=progress.get("left_out_rows") or 0,
        **known,
    )


def _device(described: Any) -> str:
    """Return what `workers.classifier.describe_device` says, in short."""
    kind, *words = str(described or "").removesuffix(" plain Torch").split() or [""]
    if kind in ("", "cpu"):
        return kind
    # The last word is the precision.
    model = [word for word in words[:-1] if word not in _MAKERS]
    telling = " ".join(word for word in model if not _MEMORY.fullmatch(word))
    return telling.partition("-")[0] or kind


def _ending(cause: str | None, message: str) -> str:
    if cause is None or cause == "done":
        return ""
    words = cause.replace("_", " ")
    # A stop was asked for: there is nothing to explain.
    told = message and cause != "stopped"
    return f"{words}: {message.splitlines()[0]}" if told else words
