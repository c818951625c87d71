"""The compiled inside of retrieval: which classes of a block may be among the best, and how good.

A block of classes is sieved first, with one byte for each bucket: how far its score is below what
the class can do without, in whole steps that are rounded down. A class's steps only ever add up,
so it is out as soon as they exceed the limit, whatever the worlds say that were not asked yet.
Those that stay are scored as the plain definition does, in the order of the worlds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.jit import exact_kernel

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Rows = NDArray[np.integer[Any]]
Steps = NDArray[np.uint8]

SUM, MIN, MEDIAN = 0, 1, 2
STEPS = 255
"""Most steps of one bucket."""
GROUP = 8
"""Worlds that are asked for a class before it is looked whether it is out."""


@exact_kernel
def count_steps(scores: Floats, top: float, width: float, out: Steps) -> None:
    """Write how many steps each score is below the best of its world, rounded down.

    Args:
        scores: (B,) of one world.
        top: the best of them.
        width: of a step.
        out: (B,) written; more than `STEPS` are not told apart.
    """
    scale = 1.0 / width
    for bucket in range(len(scores)):
        steps = (top - np.float64(scores[bucket])) * scale
        out[bucket] = np.uint8(min(steps, np.float64(STEPS)))


@exact_kernel
def scan(
    mode: int,
    scores: Floats,
    steps: Steps,
    limit: int,
    order: Ids,
    rows: Rows,
    start: int,
    stop: int,
    first: int,
    hidden: Ids,
    ids: Ids,
    found: Floats,
    alive: NDArray[np.int32],
) -> None:
    """Offer a block of classes to the heap that holds the k best of a query so far.

    Args:
        mode: `SUM`, `MIN` or `MEDIAN`.
        scores: (R, B) float32.
        steps: (R, B) uint8.
        limit: the most steps that a class of the k best can have.
        order: the worlds to sieve by, in this order; none: every class is scored.
        rows: (n, R or more) buckets of classes, of which [start, stop) are the block's.
        start: see `rows`.
        stop: see `rows`.
        first: the id of the block's first class, higher than any in the heap; the others follow.
        hidden: ascending ids that must not be given.
        ids: (k,) ids in the heap, changed in place; -1 for none.
        found: (k,) their reduced scores, changed in place; -inf for none.
        alive: work space for one number more than the block has classes.
    """
    worlds = len(scores)
    values = np.empty(worlds, np.float32)
    count = _sieve(steps, limit, order, rows, start, stop, alive)
    for place in range(count):
        offset = alive[place]
        if mode == SUM:
            score = scores[0, rows[start + offset, 0]]
            for world in range(1, worlds):
                score += scores[world, rows[start + offset, world]]
        else:
            for world in range(worlds):
                values[world] = scores[world, rows[start + offset, world]]
            score = values.min() if mode == MIN else _median(values)
        # An equal score does not pass: its class is higher than those in the heap.
        if score > found[0] and not _contains(hidden, first + offset):
            replace_worst(found, ids, score, first + offset)


@exact_kernel
def _sieve(
    steps: Steps,
    limit: int,
    order: Ids,
    rows: Rows,
    start: int,
    stop: int,
    alive: NDArray[np.int32],
) -> int:
    """Write the offsets of the classes within the limit, ascending, and return how many."""
    # Flat and unsigned: no look at whether an index is negative.
    flat, buckets, width = steps.reshape(-1), rows.reshape(-1), np.uint64(rows.shape[1])
    worlds, bases = order.astype(np.uint64), order.astype(np.uint64) * np.uint64(steps.shape[1])
    groups, most = len(order) // GROUP, np.uint64(limit)
    count = 0
    for row in range(start, stop, 2):
        # Two classes at a time, the last one with itself: neither waits for the other.
        one = np.uint64(row) * width
        two = np.uint64(min(row + 1, stop - 1)) * width
        first, second = np.uint64(0), np.uint64(0)
        place = np.uint64(0)
        for _ in range(groups):
            # As many times as is known to the compiler.
            for step in range(np.uint64(GROUP)):
                world, base = worlds[place + step], bases[place + step]
                first += flat[base + buckets[one + world]]
                second += flat[base + buckets[two + world]]
            place += np.uint64(GROUP)
            if min(first, second) > most:
                break
        if min(first, second) <= most:
            for last in range(place, np.uint64(len(worlds))):
                first += flat[bases[last] + buckets[one + worlds[last]]]
                second += flat[bases[last] + buckets[two + worlds[last]]]
        alive[count] = row - start
        count += int(first <= most)
        alive[count] = row + 1 - start
        count += int(second <= most and row + 1 < stop)
    return count


@exact_kernel
def _median(values: Floats) -> np.float32:
    """Return the median of some numbers, and sort them."""
    for last in range(1, len(values)):
        value, place = values[last], last
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value
    middle = len(values) // 2
    result: np.float32 = (values[middle] + values[-1 - middle]) * np.float32(0.5)
    return result


@exact_kernel
def _contains(ascending: Ids, wanted: int) -> bool:
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < len(ascending) and bool(ascending[low] == wanted)


@exact_kernel
def replace_worst(found: Floats, ids: Ids, score: np.float32, class_id: int) -> None:
    """Put a class in the place of the worst one, which a heap keeps at its root."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= len(found):
            break
        right = child + 1
        if right < len(found) and _worse(found[right], ids[right], found[child], ids[child]):
            child = right
        if not _worse(found[child], ids[child], score, class_id):
            break
        found[place], ids[place] = found[child], ids[child]
        place = child
    found[place], ids[place] = score, class_id


@exact_kernel
def _worse(score: np.float32, class_id: int, other: np.float32, other_id: int) -> bool:
    return bool(score < other or (score == other and class_id > other_id))
