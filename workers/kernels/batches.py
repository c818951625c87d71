"""What makes a batch ready to train on: labels in order, and features with their rows."""

from __future__ import annotations

import numpy as np

from workers.hashing import first_slot, table_size
from workers.jit import kernel
from workers.kernels.numbers import Floats, Ids, Offsets


@kernel
def transpose(offsets: Offsets, ids: Ids, values: Floats) -> tuple[Ids, Offsets, Ids, Floats]:
    """Turn a batch's rows of features into features with their rows.

    Returns:
        features (u,) in order of first appearance, starts (u + 1,), rows and
        values (features,): feature u stands in rows[starts[u]:starts[u + 1]].
    """
    count = ids.shape[0]
    # Open addressing, in a table of the batch's size and not of d.
    size = table_size(count)
    place = np.full(size, -1, np.int32)
    slots = np.empty(count, np.int32)
    features = np.empty(count, np.int32)
    sizes = np.zeros(count + 1, np.int64)
    used = 0
    for position in range(count):
        feature = ids[position]
        slot = first_slot(feature, size)
        while place[slot] >= 0 and features[place[slot]] != feature:
            slot = (slot + 1) & (size - 1)
        if place[slot] < 0:
            place[slot] = used
            features[used] = feature
            used += 1
        slots[position] = place[slot]
        sizes[slots[position] + 1] += 1
    starts = np.cumsum(sizes[: used + 1])
    free = starts.copy()
    rows = np.empty(count, np.int32)
    out = np.empty(count, np.float32)
    for row in range(offsets.shape[0] - 1):
        for position in range(offsets[row], offsets[row + 1]):
            slot = slots[position]
            rows[free[slot]] = row
            out[free[slot]] = values[position]
            free[slot] += 1
    return features[:used], starts, rows, out


@kernel
def sort_within_rows(offsets: Offsets, buckets: Ids) -> None:
    """Sort, in place, each row's buckets[offsets[i]:offsets[i + 1]]."""
    for row in range(offsets.shape[0] - 1):
        buckets[offsets[row] : offsets[row + 1]].sort()
