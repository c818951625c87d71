"""The compiled inside of the pruned search: which buckets to look into.

Buckets of a world are put into bins by their deficit, the distance of their
score from the world's best. A *cover* is a number of bins for each world: the
classes of those bins' buckets have been looked at, best bins first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.scan import replace_worst
from workers.jit import exact_kernel

Floats = NDArray[np.float32]
Exact = NDArray[np.float64]
Ids = NDArray[np.int64]
Counts = NDArray[np.int64]
Buckets = NDArray[np.int32]

BINS = 512
"""Bins of a world: the finer, the fewer buckets a cover holds in vain."""


@exact_kernel
def rank_buckets(
    scores: Floats,
    top: float,
    bottom: float,
    most: int,
    order: Buckets,
    starts: Counts,
    low: Exact,
    corner: Counts,
) -> None:
    """Sort one world's best buckets into bins of equal width, best first.

    Args:
        scores: (B,) of the buckets.
        top: the best of them.
        bottom: the worst of them.
        most: how many buckets to sort, whole bins of them; the first bin always.
        order: (B,) buckets by bin, ascending within one; written for those that are sorted.
        starts: (BINS + 1,) where each bin begins in `order`; written.
        low: (BINS + 1,) what the deficit of no bucket in this bin or a later one is below,
            infinite where there is none; written.
        corner: (BINS + 1,) for 0 and each corner of the concave hull of `low` over `starts`, the
            next corner; itself if that is the last one that the sorted buckets reach; written.
    """
    span = top - bottom
    scale = BINS / span if span > 0 else 0.0
    bins = np.empty(len(scores), np.int16)
    for bucket in range(len(scores)):
        deficit = (top - np.float64(scores[bucket])) * scale
        bins[bucket] = min(np.int32(deficit), np.int32(BINS - 1))
    starts[:] = 0
    worst = 0
    for found in bins:
        # Most buckets are in the last bin; counting them apart, none waits for the one before.
        if found == BINS - 1:
            worst += 1
        else:
            starts[found + 1] += 1
    starts[BINS] = worst
    for place in range(BINS):
        starts[place + 1] += starts[place]
    low[BINS] = np.inf
    for place in range(BINS - 1, -1, -1):
        # A little less, as the bins' edges are rounded.
        edge = place / scale * (1.0 - 1e-9) if scale > 0 else 0.0
        low[place] = edge if starts[place + 1] > starts[place] else low[place + 1]
    last = 1
    while last < BINS and starts[last + 1] <= most:
        last += 1
    _corners(starts, low, last, corner)
    filled = starts.copy()
    for bucket in range(len(scores)):
        found = bins[bucket]
        if found < last:
            order[filled[found]] = bucket
            filled[found] += 1


@exact_kernel
def _corners(starts: Counts, low: Exact, last: int, corner: Counts) -> None:
    hull = np.zeros(last + 1, np.int64)
    size = 1
    for place in range(1, last + 1):
        if starts[place] == starts[hull[size - 1]] or low[place] == np.inf:
            continue
        while size > 1:
            one, two = hull[size - 2], hull[size - 1]
            before = (low[two] - low[one]) * (starts[place] - starts[two])
            if before > (low[place] - low[two]) * (starts[two] - starts[one]):
                break
            size -= 1
        hull[size] = place
        size += 1
    for place in range(size):
        corner[hull[place]] = hull[min(place + 1, size - 1)]


@exact_kernel
def cheapest_cover(
    starts: Counts, low: Exact, corner: Counts, needed: float, most: int, cover: Counts
) -> bool:
    """Widen a cover until the least deficits outside it add up to more than `needed`.

    Always takes the bins that add most to that sum for each bucket in them.

    Args:
        starts: (R, BINS + 1), from `rank_buckets`.
        low: (R, BINS + 1), likewise.
        corner: (R, BINS + 1), likewise.
        needed: how much the sum must exceed.
        most: buckets that may be added before it gives up.
        cover: (R,) bins of each world, corners; widened in place.

    Returns:
        Whether the sum exceeds what is needed.
    """
    worlds = len(cover)
    slope = np.empty(worlds, np.float64)
    total, added = 0.0, 0
    for world in range(worlds):
        total += low[world, cover[world]]
        slope[world] = _slope(starts[world], low[world], cover[world], corner[world, cover[world]])
    while total <= needed and added < most:
        best = np.argmax(slope)
        if slope[best] <= 0.0:
            return False
        old = cover[best]
        new = corner[best, old]
        total += low[best, new] - low[best, old]
        added += starts[best, new] - starts[best, old]
        cover[best] = new
        slope[best] = _slope(starts[best], low[best], new, corner[best, new])
    return bool(total > needed)


@exact_kernel
def _slope(starts: Counts, low: Exact, first: int, last: int) -> float:
    count = starts[last] - starts[first]
    return (low[last] - low[first]) / count if count > 0 else 0.0


@exact_kernel
def best_buckets(scores: Floats, count: int) -> Ids:
    """Return a world's best buckets (int64, ascending); of equal ones the lower numbers.

    Args:
        scores: (B,) float32.
        count: how many, at most all.
    """
    ids = np.full(count, -1, np.int64)
    found = np.full(count, -np.inf, np.float32)
    for bucket in range(len(scores)):
        if scores[bucket] > found[0]:
            replace_worst(found, ids, scores[bucket], bucket)
    ids.sort()
    return ids
