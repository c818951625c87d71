"""What a run's ensembles were measured to be, kept beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestrator.ensemble.artefact import served
from workers.errors import StorageError
from workers.storage import RunPaths, Storage, is_number, to_json

if TYPE_CHECKING:
    from orchestrator.ensemble.evaluation import Evaluation


_MOST_WORLDS = 1_000_000
"""Of a curve; no run has more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEvaluation:
    """One evaluation of an ensemble of a run."""

    ensemble: str
    """Its digest."""
    data: str
    """The labelled rows; a path or URI."""
    rows: int
    at: str
    """UTC, ISO 8601."""
    metrics: Mapping[tuple[str, int], Mapping[str, float]]
    """By combiner and number of worlds: names such as `P@1`, `R@10`, to shares of 1."""


def keep(uri: str, found: Evaluation, data: str) -> str | None:
    """Keep what was measured of the ensemble that a run serves; return the file's path in the run.

    None where `uri` is an ensemble by itself: there is no run to keep it in.

    Raises:
        StorageError: the run cannot be written to.
    """
    storage = Storage(uri)
    digest = served(storage) if storage.exists(RunPaths.identity) else None
    if digest is None:
        return None
    curves = [
        {"combiner": combiner, "worlds": worlds, "metrics": dict(metrics)}
        for (combiner, worlds), metrics in found.metrics.items()
    ]
    values = {
        "ensemble": digest,
        "data": data,
        "rows": found.rows,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "curves": curves,
    }
    return storage.append(RunPaths.evaluations, to_json(values, schema=1), ".json")


def kept(storage: Storage) -> list[KeptEvaluation]:
    """Return all that was measured of a run's ensembles, the newest last.

    Raises:
        StorageError: one of the files is altered.
    """
    names = storage.numbered(RunPaths.evaluations)
    return [_read(storage, f"{RunPaths.evaluations}/{name}") for name in names]


def _read(storage: Storage, path: str) -> KeptEvaluation:
    values = storage.read_json(path)
    try:
        metrics = {
            (_typed(item["combiner"], str), _count(item["worlds"])): {
                _typed(name, str): _number(value) for name, value in item["metrics"].items()
            }
            for item in values["curves"]
        }
        return KeptEvaluation(
            ensemble=_typed(values["ensemble"], str),
            data=_typed(values["data"], str),
            rows=_typed(values["rows"], int),
            at=_typed(values["at"], str),
            metrics=metrics,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StorageError(
            f"{storage.where(path)}: expected what `manyworlds evaluate` kept, found something"
            f" else ({error!r:.80}); the file was altered: remove it"
        ) from error


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r:.40}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MOST_WORLDS:
        raise ValueError(f"{value!r:.40}")
    return value


def _number(value: Any) -> float:
    if not is_number(value):
        raise ValueError(f"{value!r:.40}")
    return float(value)
