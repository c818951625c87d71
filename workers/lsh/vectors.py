"""Sums over vectors of which only what is not zero is said; see `workers.lsh.layer.Vectors`."""

from __future__ import annotations

import numpy as np

from workers.jit import kernel
from workers.kernels.numbers import ZERO, Floats, Ids, Offsets


@kernel
def mean_of(begins: Offsets, counts: Ids, ids: Ids, values: Floats, out: Floats) -> None:
    """Write the mean (width,) of n vectors."""
    width = len(out)
    total = np.zeros(width)
    for row in range(len(counts)):
        begin, count = begins[row], counts[row]
        if count == width:
            for c in range(width):
                total[c] += values[begin + c]
        else:
            for i in range(begin, begin + count):
                total[ids[i]] += values[i]
    for c in range(width):
        out[c] = total[c] / max(len(counts), 1)


@kernel
def products(
    begins: Offsets, counts: Ids, ids: Ids, values: Floats, other: Floats, out: Floats
) -> int:
    """Add the inner products of n vectors with another (width,) to out (n,).

    Returns:
        Multiplications, and as many additions.
    """
    done = 0
    for row in range(len(counts)):
        begin, count = begins[row], counts[row]
        total = ZERO
        if count == len(other):
            for c in range(count):
                total += values[begin + c] * other[c]
        else:
            for i in range(begin, begin + count):
                total += values[i] * other[ids[i]]
        out[row] += total
        done += count
    return done


@kernel
def squared_lengths(
    begins: Offsets,
    counts: Ids,
    ids: Ids,
    values: Floats,
    extra: Floats,
    centre: Floats,
    out: Floats,
) -> None:
    """Write the squared lengths (n,) of n vectors with their first extra coordinate.

    Args: as for `hash_signs`, but for
        centre: taken away of coordinates that are said.
    """
    width = len(centre) - extra.shape[1]
    for row in range(len(counts)):
        begin, count = begins[row], counts[row]
        total = (extra[row, 0] - centre[width]) ** 2
        for i in range(count):
            difference = values[begin + i] - centre[i if count == width else ids[begin + i]]
            total += difference * difference
        out[row] = total
