"""How good an ensemble is on labelled rows, for each combiner and number of worlds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.ensemble.ensemble import QUERIES, Ensemble
from orchestrator.ensemble.metrics import RankingMetrics, distinct
from orchestrator.ensemble.retrieval import ClassLists
from workers.config import DataConfig
from workers.errors import DataError
from workers.features import label_lists
from workers.shards import ShardSet, tables_in_order
from workers.shards.checks import is_list

Metrics = dict[str, float]
_COUNTED = 1 << 16
"""Rows whose labels are counted at a time."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    rows: int
    metrics: dict[tuple[str, int], Metrics]
    """By combiner and number of worlds: names such as `P@1`, `R@10`, to shares of 1."""


def evaluate(
    ensemble: Ensemble,
    data: str,
    *,
    ks: Sequence[int] = (1, 5, 10, 100),
    combiners: Sequence[str] | None = None,
    worlds: Sequence[int] | None = None,
    leave_out: str | None = None,
    frequencies: str | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Evaluation:
    """Measure an ensemble on labelled rows, in one pass over them.

    Args:
        ensemble: to measure.
        data: Parquet rows with the columns of training; any URI.
        ks: at which k.
        combiners: to measure; None: the ensemble's own.
        worlds: how many worlds to ask, each of them; None: 1, 2, 4, … and all.
        leave_out: column with lists of classes that a row must not be given, such
            as what was bought already.
        frequencies: labelled rows, mostly those of training, that tell how frequent each class
            is; any URI. With them propensity-scored precision is measured, and the recall of
            head, torso and tail.
        limit: of rows; None: all.
        progress: told how many rows of how many are done.

    Raises:
        ConfigError: for an unknown combiner.
        DataError: if columns, rows or numbers of worlds do not fit.
    """
    config = ensemble.config.data
    names = list(combiners or [ensemble.manifest.combiner])
    counts = sorted(set(worlds or curve(ensemble.worlds)))
    shards = ShardSet(data)
    shards.check_columns(config)
    if leave_out:
        _check_lists_column(shards, leave_out)
    for name in names:
        ensemble.combiner(name)
    for count in counts:
        ensemble.check_worlds(count)
    told: dict[str, Any] = {}
    if frequencies:
        told["counts"], told["training_rows"] = class_counts(frequencies, config)
    meters = {(name, count): RankingMetrics(ks, **told) for name in names for count in counts}
    rows = min(shards.rows, limit or shards.rows)
    done = 0
    more = [leave_out] if leave_out else []
    for table in tables_in_order(shards, config, rows=QUERIES, limit=limit, more_columns=more):
        _measure(ensemble, table, meters, max(ks), leave_out)
        done += table.num_rows
        progress(done, rows)
    return Evaluation(rows, {key: meter.result() for key, meter in meters.items()})


def class_counts(data: str, config: DataConfig) -> tuple[NDArray[np.int64], int]:
    """Return how many rows have each class, (K,) int64, and how many rows there are.

    Args:
        data: labelled Parquet rows; any URI. Only their labels are read.
        config: names the column and K.

    Raises:
        DataError: if the column is not there, or holds nulls or labels outside [0, K).
    """
    labels_alone = replace(
        config, text=(), indices=None, values=None, dense=None, weight=None, validation=None
    )
    counts = np.zeros(config.classes, np.int64)
    shards = ShardSet(data)
    shards.check_columns(labels_alone)
    for table in tables_in_order(shards, labels_alone, rows=_COUNTED):
        _, labels = distinct(*label_lists(table.column(config.labels)))
        classes, times = np.unique(labels, return_counts=True)
        counts[classes] += times
    return counts, shards.rows


def curve(worlds: int) -> list[int]:
    """Return 1, 2, 4, … and `worlds`."""
    powers = [2**i for i in range(worlds.bit_length()) if 2**i < worlds]
    return [*powers, worlds]


def _check_lists_column(shards: ShardSet, name: str) -> None:
    for path, schema in zip(shards.paths, shards.schemas, strict=True):
        if name not in schema.names:
            raise DataError(
                f"{path}: expected a column '{name}' with the classes to leave out, found only"
                f" {', '.join(schema.names)}"
            )
        kind = schema.field(name).type
        if not pa.types.is_integer(kind.value_type if is_list(kind) else kind):
            raise DataError(
                f"{path}: expected column '{name}' of type list<int>, found {kind}; write it as"
                " that type, or name another column"
            )


def _lists(table: pa.Table, name: str) -> ClassLists:
    column = table.column(name)
    inner = pc.list_flatten(column) if is_list(column.type) else column
    if column.null_count or inner.null_count:
        raise DataError(
            f"column '{name}': expected lists of classes, found null; use an empty list where"
            " nothing is left out"
        )
    return ClassLists(*label_lists(column))


def _measure(
    ensemble: Ensemble,
    table: pa.Table,
    meters: dict[tuple[str, int], RankingMetrics],
    k: int,
    leave_out: str | None,
) -> None:
    config = ensemble.config.data
    offsets, labels = label_lists(table.column(config.labels))
    without = _lists(table, leave_out) if leave_out else None
    for start, stop, probabilities in ensemble.probabilities(table):
        hidden = None if without is None else without.of(start, stop)
        some = offsets[start : stop + 1] - offsets[start]
        wanted = labels[offsets[start] : offsets[stop]]
        for name in dict.fromkeys(name for name, _ in meters):
            combiner = ensemble.combiner(name)
            scores = ensemble.scores(probabilities, combiner)
            for (_, count), meter in ((key, m) for key, m in meters.items() if key[0] == name):
                ids, _ = ensemble.best(scores[:count], k, combiner, leave_out=hidden)
                meter.update(ids, some, wanted)
