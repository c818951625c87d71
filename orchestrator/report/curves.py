"""What worlds told while they trained, read back from their attempts' metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.run import Run
from workers.errors import StorageError, StorageUnreachable
from workers.storage import is_number

Floats = NDArray[np.float64]

_MOST_FILES = 20_000
"""Metrics files that are read in all, evenly over every attempt's."""
_FEWEST_FILES = 20
"""That are read of each attempt all the same."""
_LARGEST_FILE = 16 << 20
_AT_ONCE = 16
"""Files that are asked for together: object stores answer late."""
_NUMBERS = ("step", "seconds", "rows_per_second", "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one attempt told, one item a report, oldest first."""

    world: int
    attempt: str
    steps: Floats
    seconds: Floats
    """Since the attempt began to train."""
    rates: Floats
    """Rows a second since the report before, without the time of a validation."""
    rows: Floats
    """Rows since the report before; NaN: not told."""
    losses: Floats
    accuracies: Floats
    """Bucket accuracy; NaN: not measured yet."""
    damage: tuple[str, ...] = ()
    """What could not be read, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One value of one world over its steps."""

    world: int
    steps: Floats
    values: Floats


def read(run: Run, attempts: Sequence[tuple[int, str]]) -> list[Told]:
    """Return what attempts told, in their order.

    Of runs with very many metrics files, every so manieth is read.

    Args:
        run: the run.
        attempts: worlds, and the names of their attempts.

    Raises:
        StorageUnreachable: nothing is known.
    """
    most = max(_FEWEST_FILES, _MOST_FILES // max(1, len(attempts)))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda one: _read(run, one[0], one[1], most), attempts))


def curves(told: Sequence[Told], value: str, most: int) -> list[Curve]:
    """Return one value over steps for each world that told it, of `most` points at most.

    A world that went on from a checkpoint told some steps twice: its later attempt counts.

    Args:
        told: what attempts told, each world's oldest first.
        value: `losses` or `accuracies`; of the latter, points where it was measured anew.
        most: points of a curve.
    """
    found: dict[int, dict[float, float]] = {}
    for one in told:
        values = getattr(one, value)
        keep = ~np.isnan(values)
        if value == "accuracies":
            keep &= np.append(True, values[1:] != values[:-1])
        points = zip(one.steps[keep].tolist(), values[keep].tolist(), strict=True)
        found.setdefault(one.world, {}).update(points)
    return [_thinned(world, points, most) for world, points in sorted(found.items()) if points]


def median(all_curves: Sequence[Curve], most: int) -> Curve | None:
    """Return the median over worlds, as far as at least half of them got; None: no such steps."""
    if not all_curves:
        return None
    steps = np.unique(np.concatenate([curve.steps for curve in all_curves]))
    if len(steps) > most:
        steps = np.linspace(steps[0], steps[-1], most)
    rows = [
        np.interp(steps, curve.steps, curve.values, left=np.nan, right=np.nan)
        for curve in all_curves
    ]
    values = np.stack(rows)
    enough = 2 * (~np.isnan(values)).sum(axis=0) >= len(all_curves)
    if not enough.any():
        return None
    middle = np.nanmedian(values[:, enough], axis=0)
    return Curve(world=-1, steps=steps[enough], values=middle)


def _thinned(world: int, points: Mapping[float, float], most: int) -> Curve:
    steps = np.array(sorted(points))
    steps = steps[_spread(len(steps), most)]
    return Curve(world=world, steps=steps, values=np.array([points[step] for step in steps]))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return the places of `most` of `count` items, evenly spaced, the first and last included."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, most)).astype(np.int64))


def _read(run: Run, world: int, attempt: str, most: int) -> Told:
    rows: list[Mapping[str, Any]] = []
    damage = []
    folder = run.paths.metrics(world, attempt)
    names = run.storage.numbered(folder)
    for place in _spread(len(names), most):
        try:
            # One by one: what comes before the damage counts.
            for row in _lines(run, f"{folder}/{names[place]}"):
                rows.append(row)
        except StorageUnreachable:
            raise
        except StorageError as error:
            damage.append(str(error))
    values = {name: np.array([float(row[name]) for row in rows]) for name in _NUMBERS}
    accuracies = [row.get("bucket_accuracy") for row in rows]
    return Told(
        world=world,
        attempt=attempt,
        steps=values["step"],
        seconds=values["seconds"],
        rates=values["rows_per_second"],
        rows=np.array([float(row.get("rows", math.nan)) for row in rows]),
        losses=values["loss"],
        accuracies=np.array([math.nan if one is None else float(one) for one in accuracies]),
        damage=tuple(damage),
    )


def _lines(run: Run, path: str) -> Iterator[Mapping[str, Any]]:
    """Yield the reports in a metrics file, up to one that is none."""
    for line in run.storage.read_bytes(path, at_most=_LARGEST_FILE).splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not _is_report(values):
            raise StorageError(
                f"{run.storage.where(path)}: expected what a world told while it trained, found"
                f" {line[:40]!r}; the file was altered: remove it"
            )
        yield values


def _is_report(values: Any) -> bool:
    if not isinstance(values, dict):
        return False
    accuracy, rows = values.get("bucket_accuracy"), values.get("rows", 0)
    needed = [*(values.get(name) for name in _NUMBERS), rows]
    if not all(map(is_number, needed if accuracy is None else [*needed, accuracy])):
        return False
    return bool(rows >= 0)
