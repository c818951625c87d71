"""Features left out at random while training, so that no class leans on a few of them.

Dropout on the input (Srivastava et al. 2014, "Dropout: a simple way to prevent
neural networks from overfitting", section 3). Which features of a row go is a
function of the row's place in the shuffled data alone: a world that stopped and
goes on leaves out the same ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from workers.batch import Batch
from workers.hashing import GOLDEN, mix64_jit
from workers.jit import kernel

Offsets = NDArray[np.int64]
Ids = NDArray[np.int32]
Values = NDArray[np.float32]


def leave_features_out(batch: Batch, share: float, key: int, first: int) -> Batch:
    """Return a batch in which each feature is missing with probability `share`.

    What is left of a row is scaled to the Euclidean norm that it had. A row may lose all.

    Args:
        batch: any rows.
        share: from 0 to less than 1.
        key: 64-bit seed of the block that the rows are of.
        first: number of the first row within that block.
    """
    if not share:
        return batch
    offsets, ids, values = dropped(
        batch.feature_offsets,
        batch.feature_ids,
        batch.feature_values,
        np.uint64(key),
        first,
        np.uint64(int(share * 2.0**64)),
    )
    return replace(batch, feature_offsets=offsets, feature_ids=ids, feature_values=values)


@kernel
def dropped(
    offsets: Offsets, ids: Ids, values: Values, key: np.uint64, first: int, below: np.uint64
) -> tuple[Offsets, Ids, Values]:
    """Leave out what draws less than `below`, and scale what is left to the row's norm.

    Args:
        offsets: (n + 1,) int64.
        ids: (features,) int32.
        values: (features,) float32.
        key: of the block.
        first: number of row 0 within the block.
        below: the share that goes, times 2^64.

    Returns:
        offsets (n + 1,) int64, ids (left,) int32 and values (left,) float32.
    """
    rows = offsets.shape[0] - 1
    out_offsets = np.zeros(rows + 1, np.int64)
    out_ids, out_values = np.empty_like(ids), np.empty_like(values)
    used = 0
    for row in range(rows):
        draw = mix64_jit(key + np.uint64(first + row) * np.uint64(GOLDEN))
        begin, before, after = used, 0.0, 0.0
        for position in range(offsets[row], offsets[row + 1]):
            square = np.float64(values[position]) * np.float64(values[position])
            before += square
            if mix64_jit(draw ^ np.uint64(ids[position])) < below:
                continue
            after += square
            out_ids[used], out_values[used] = ids[position], values[position]
            used += 1
        if after > 0.0:
            scale = np.sqrt(before / after)
            for position in range(begin, used):
                out_values[position] = np.float32(out_values[position] * scale)
        out_offsets[row + 1] = used
    return out_offsets, out_ids[:used].copy(), out_values[:used].copy()
