"""Rows of the same query and the same classes become one, with the sum of their weights."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.prepare.keys import Words
from workers.hashing import GOLDEN, mix64_jit
from workers.jit import kernel

_GOLDEN, _PRIME = np.uint64(GOLDEN), np.uint64(0x100000001B3)

HIGH, LOW = "_high", "_low"
"""Columns of a query's key (uint64), until its rows are written for good."""


def merged(rows: pa.Table) -> pa.Table:
    """Return each query's different rows once, in the order of their keys.

    Args:
        rows: with `labels` (list of int64, ascending), `weight` (float32), `HIGH` and `LOW`; of
            equal ones the first stays, with the weights of all.
    """
    rows = rows.combine_chunks()
    if not rows.num_rows:
        return rows
    high, low = (rows.column(name).to_numpy() for name in (HIGH, LOW))
    labels = rows.column("labels").combine_chunks()
    offsets = labels.offsets.to_numpy().astype(np.int64)
    flat = labels.flatten().to_numpy()
    of_labels = _hash_lists(offsets - offsets[0], flat)
    order = np.lexsort((of_labels, low, high))
    first = _is_new(high[order], low[order], of_labels[order])
    groups = np.cumsum(first) - 1
    weights = np.bincount(groups, rows.column("weight").to_numpy()[order].astype(np.float64))
    kept = rows.take(pa.array(order[first]))
    place = kept.schema.get_field_index("weight")
    return kept.set_column(place, "weight", pa.array(weights.astype(np.float32)))


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
