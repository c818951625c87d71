"""The compiled inside of the pruned search: which buckets to look into, and who may stay.

Buckets of a world are put into bins by their deficit, the distance of their
score from the world's best. A *cover* is a number of bins for each world: the
classes of those bins' buckets have been looked at, best bins first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.jit import exact_kernel, prefetch_line

Floats = NDArray[np.float32]
Exact = NDArray[np.float64]
Ids = NDArray[np.int64]
Counts = NDArray[np.int64]
Buckets = NDArray[np.int32]
Bins = NDArray[np.int16]
Flags = NDArray[np.uint8]
Rows = NDArray[np.integer[Any]]

BINS = 512
"""Bins of a world: the finer, the fewer buckets a cover holds in vain."""
_AHEAD = 8
"""How many classes ahead the CPU is asked for a row."""


@exact_kernel
def rank_buckets(
    scores: Floats, bins: Bins, order: Buckets, starts: Counts, low: Exact
) -> np.float32:
    """Sort one world's buckets into bins of equal width, best first.

    Args:
        scores: (B,) of the buckets.
        bins: (B,) the bin of every bucket; written.
        order: (B,) buckets by bin, ascending within one; written.
        starts: (BINS + 1,) where each bin begins in `order`; written.
        low: (BINS + 1,) the least deficit of all buckets that are in this bin or a later one,
            infinite where there is none; written.

    Returns:
        The best score.
    """
    top, bottom = scores[0], scores[0]
    for score in scores:
        top, bottom = max(top, score), min(bottom, score)
    span = np.float64(top) - np.float64(bottom)
    scale = BINS / span if span > 0 else 0.0
    starts[:] = 0
    low[:] = np.inf
    for bucket in range(len(scores)):
        deficit = np.float64(top) - np.float64(scores[bucket])
        place = min(int(deficit * scale), BINS - 1)
        bins[bucket] = place
        starts[place + 1] += 1
        low[place] = min(low[place], deficit)
    for place in range(BINS):
        starts[place + 1] += starts[place]
    for place in range(BINS - 1, -1, -1):
        low[place] = min(low[place], low[place + 1])
    filled = starts.copy()
    for bucket in range(len(scores)):
        order[filled[bins[bucket]]] = bucket
        filled[bins[bucket]] += 1
    best: np.float32 = top
    return best


@exact_kernel
def cheapest_cover(starts: Counts, low: Exact, needed: float, most: int, cover: Counts) -> bool:
    """Widen a cover until the least deficits outside it add up to more than `needed`.

    Always takes the bins that add most to that sum for each bucket in them.

    Args:
        starts: (R, BINS + 1), from `rank_buckets`.
        low: (R, BINS + 1), likewise.
        needed: how much the sum must exceed.
        most: buckets that may be added before it gives up.
        cover: (R,) bins of each world; widened in place.

    Returns:
        Whether the sum exceeds what is needed.
    """
    worlds = len(cover)
    target = np.empty(worlds, np.int64)
    slope = np.empty(worlds, np.float64)
    total, added = 0.0, 0
    for world in range(worlds):
        total += low[world, cover[world]]
        target[world], slope[world] = _steepest(starts[world], low[world], cover[world])
    while total <= needed and added < most:
        best = np.argmax(slope)
        if slope[best] <= 0.0:
            return False
        old, new = cover[best], target[best]
        total += low[best, new] - low[best, old]
        added += starts[best, new] - starts[best, old]
        cover[best] = new
        target[best], slope[best] = _steepest(starts[best], low[best], new)
    return bool(total > needed)


@exact_kernel
def _steepest(starts: Counts, low: Exact, first: int) -> tuple[int, float]:
    """Return the bin up to which the least deficit grows most for each bucket, and how much."""
    target, slope = first, 0.0
    for place in range(first + 1, BINS):
        count = starts[place] - starts[first]
        if count > 0 and low[place] < np.inf:
            found = (low[place] - low[first]) / count
            if found > slope:
                target, slope = place, found
    return target, slope


@exact_kernel
def sift(
    classes: Ids,
    partial: Exact,
    buckets: Buckets,
    values: Floats,
    bins: Bins,
    covered: int,
    least: float,
) -> int:
    """Add one world's values, and keep the classes whose sum is not below what is needed.

    Args:
        classes: (n,) ids; those that stay are moved to the front.
        partial: (n,) sums of values so far, likewise.
        buckets: (n,) of this world.
        values: (B,) of this world.
        bins: (B,) of this world.
        covered: bins of this world whose classes were looked at before.
        least: the sum that is needed now.

    Returns:
        How many stay.
    """
    kept = 0
    for i in range(len(classes)):
        bucket = buckets[i]
        total = partial[i] + np.float64(values[bucket])
        classes[kept], partial[kept] = classes[i], total
        kept += int(total >= least) & int(bins[bucket] >= covered)
    return kept


@exact_kernel
def sift_rows(
    classes: Ids,
    partial: Exact,
    rows: Rows,
    values: Floats,
    bins: Bins,
    cover: Counts,
    order: Ids,
    least: Exact,
) -> int:
    """Do what `sift` does for one world after the other, class by class.

    Args:
        classes: (n,) ids; those that stay are moved to the front.
        partial: (n,) sums of values so far.
        rows: (K, R) every class's bucket in each world.
        values: (R, B).
        bins: (R, B).
        cover: (R,) bins of each world whose classes were looked at before.
        order: the worlds to ask, one after the other.
        least: the sum that is needed after each of them.

    Returns:
        How many stay.
    """
    kept = 0
    last = len(classes) - 1
    for i in range(len(classes)):
        prefetch_line(rows, classes[min(i + _AHEAD, last)], 0)
        mine = rows[classes[i]]
        total, stays = partial[i], True
        for place in range(len(order)):
            other = order[place]
            bucket = mine[other]
            total += np.float64(values[other, bucket])
            if total < least[place] or bins[other, bucket] < cover[other]:
                stays = False
                break
        if stays:
            classes[kept] = classes[i]
            kept += 1
    return kept


@exact_kernel
def count_rows(classes: Ids, world: int, rows: Rows, flags: Flags, counts: Counts) -> int:
    """Count the worlds that name a class, of those classes that no earlier world names.

    Args:
        classes: (n,) ids of classes that `world` names; those that stay are moved to the front.
        world: the place of that world.
        rows: (K, R) every class's bucket in each world.
        flags: (R, B) 1 for the buckets whose classes a world names, else 0.
        counts: (n,) how many worlds name each; written.

    Returns:
        How many stay.
    """
    kept = 0
    last = len(classes) - 1
    for i in range(len(classes)):
        prefetch_line(rows, classes[min(i + _AHEAD, last)], 0)
        mine = rows[classes[i]]
        earlier, count = 0, 0
        for other in range(world):
            earlier += flags[other, mine[other]]
        if earlier == 0:
            for other in range(world, len(flags)):
                count += flags[other, mine[other]]
            classes[kept], counts[kept] = classes[i], count
            kept += 1
    return kept
