"""Rows of the same query and the same classes become one, with the sum of their weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.prepare.config import LABELS, WEIGHT
from orchestrator.prepare.keys import Words
from workers.hashing import GOLDEN, mix64_jit
from workers.jit import kernel

_GOLDEN, _PRIME = np.uint64(GOLDEN), np.uint64(0x100000001B3)

HIGH, LOW = "_high", "_low"
"""Columns of a query's key (uint64), until its rows are written for good."""
_FEW_ROWS = 1 << 18
"""That are held before any of them are merged."""


def merged_in_turn(tables: Iterable[pa.Table]) -> pa.Table:
    """Return what `merged` does of all tables, with `weight` as float32.

    It holds few more than twice the rows that differ, and one table: a query that many ask is
    there in every one.
    """
    held: list[pa.Table] = []
    most = _FEW_ROWS
    for table in tables:
        held.append(_weighed(table, pa.float64()))
        if sum(each.num_rows for each in held) > most:
            held = [merged(pa.concat_tables(held))]
            most = max(_FEW_ROWS, 2 * held[0].num_rows)
    return _weighed(merged(pa.concat_tables(held)), pa.float32())


def _weighed(rows: pa.Table, kind: pa.DataType) -> pa.Table:
    place = rows.schema.get_field_index(WEIGHT)
    return rows.set_column(place, WEIGHT, rows.column(WEIGHT).cast(kind, safe=False))


def merged(rows: pa.Table) -> pa.Table:
    """Return each query's different rows once, in the order of their keys.

    Args:
        rows: with `labels` (list of int64, ascending), `weight` (float64), `HIGH` and `LOW`; of
            equal ones the first stays, with the weights of all.
    """
    rows = rows.combine_chunks()
    if not rows.num_rows:
        return rows
    high, low = (rows.column(name).to_numpy() for name in (HIGH, LOW))
    labels = rows.column(LABELS).combine_chunks()
    offsets = labels.offsets.to_numpy().astype(np.int64)
    flat = labels.flatten().to_numpy()
    of_labels = _hash_lists(offsets - offsets[0], flat)
    order = np.lexsort((of_labels, low, high))
    first = _is_new(high[order], low[order], of_labels[order])
    groups = np.cumsum(first) - 1
    weights = np.bincount(groups, rows.column(WEIGHT).to_numpy()[order])
    kept = rows.take(pa.array(order[first]))
    place = kept.schema.get_field_index(WEIGHT)
    return kept.set_column(place, WEIGHT, pa.array(weights))


def _is_new(*keys: Words) -> NDArray[np.bool_]:
    """Return which of some sorted rows are not like the one before."""
    new = np.ones(len(keys[0]), np.bool_)
    new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return new


@kernel
def _hash_lists(offsets: NDArray[np.int64], flat: NDArray[np.int64]) -> Words:
    out = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(out)):
        word = mix64_jit(np.uint64(offsets[row + 1] - offsets[row]) + _GOLDEN)
        for position in range(offsets[row], offsets[row + 1]):
            word = mix64_jit(word * _PRIME + np.uint64(flat[position]) + _GOLDEN)
        out[row] = word
    return out
