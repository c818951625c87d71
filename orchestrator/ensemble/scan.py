"""The compiled inside of retrieval: which of many classes may be among the best, and how good.

Classes are sieved first, with one byte for each bucket: how far its score is below what the class
can do without, in whole steps that are rounded down. A class's steps only ever add up, so it is
out as soon as they exceed the limit, whatever the worlds say that were not asked yet. Those that
stay are scored as the plain definition does, in the order of the worlds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.lookup import Rows
from workers.jit import exact_kernel, prefetch_line
from workers.permutation import Words, permute_words

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Steps = NDArray[np.uint8]

SUM, MIN, MEDIAN = 0, 1, 2
STEPS = 255
"""Most steps of one bucket."""
AHEAD = 16
"""Classes before it is needed that a class's row is asked for."""
GROUP = 4
"""Consecutive worlds that a class is asked for before it is looked whether it is out."""
_GROUP = np.uint64(GROUP)


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
        steps: of a `Sieve`; or none, and every class is scored.
        limit: likewise.
        order: likewise.
        rows: (n, R or more) buckets of classes, of which [start, stop) are the block's.
        start: see `rows`.
        stop: see `rows`.
        first: the id of the block's first class, higher than any in the heap; the others follow.
        hidden: ascending ids that must not be given.
        ids: (k,) ids in the heap, changed in place; -1 for none.
        found: (k,) their reduced scores, changed in place; -inf for none.
        alive: work space for one number more than the block has classes.
    """
    values = np.empty(len(scores), np.float32)
    for offset in alive[: _sieve(steps, limit, order, rows, start, stop, alive)]:
        score = _score(mode, scores, rows[start + offset], values)
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
    flat, buckets, most = steps.reshape(-1), rows.reshape(-1), np.uint64(limit)
    across, worlds = np.uint64(steps.shape[1]), np.uint64(len(steps))
    width, rest = np.uint64(rows.shape[1]), np.uint64(len(order)) * _GROUP
    count = 0
    for row in range(start, stop, 2):
        # Two classes at a time, the last one with itself: neither waits for the other.
        one, two = np.uint64(row) * width, np.uint64(min(row + 1, stop - 1)) * width
        first, second = np.uint64(0), np.uint64(0)
        for group in order:
            begin = np.uint64(group) * _GROUP
            first += _group_steps(flat, buckets, begin * across, one + begin, across)
            second += _group_steps(flat, buckets, begin * across, two + begin, across)
            if min(first, second) > most:
                break
        if min(first, second) <= most:
            for world in range(rest, worlds):
                first += flat[world * across + buckets[one + world]]
                second += flat[world * across + buckets[two + world]]
        alive[count] = row - start
        count += int(first <= most)
        alive[count] = row + 1 - start
        count += int(second <= most and row + 1 < stop)
    return count


@exact_kernel
def _group_steps(
    flat: Steps, buckets: Rows, table: np.uint64, place: np.uint64, across: np.uint64
) -> np.uint64:
    """Return the steps of a class in a group of worlds.

    Args:
        flat: (R * B,) of a `Sieve`.
        buckets: classes' buckets, one class after the other.
        table: where the steps of the group's first world begin.
        place: where the class's bucket in that world is.
        across: B.
    """
    total = np.uint64(0)
    # As many times as is known to the compiler.
    for _ in range(np.uint64(GROUP)):
        total += flat[table + buckets[place]]
        table += across
        place += np.uint64(1)
    return total


@exact_kernel
def sift(
    named: Words,
    classes: int,
    bits: int,
    low_bits: int,
    keys: Words,
    rows: Rows,
    steps: Steps,
    limit: int,
    order: Ids,
) -> int:
    """Move those of some classes that stay within a limit to the front, in their order.

    Args:
        named: (n,) classes; changed in place.
        classes: K.
        bits: of the permutations, `workers.partition.PackedPermutations`.
        low_bits: likewise.
        keys: (R, rounds) likewise.
        rows: (K, R or more) every class's bucket in each world; or none, and they are computed.
        steps: of a `Sieve`.
        limit: likewise.
        order: likewise.

    Returns:
        How many stay.
    """
    if len(rows) > 0:
        return _sift_stored(named, rows, steps, limit, order)
    return _sift_computed(named, classes, bits, low_bits, keys, steps, limit, order)


@exact_kernel
def _sift_stored(named: Words, rows: Rows, steps: Steps, limit: int, order: Ids) -> int:
    flat, buckets, most = steps.reshape(-1), rows.reshape(-1), np.uint64(limit)
    across, worlds = np.uint64(steps.shape[1]), np.uint64(len(steps))
    width, rest = np.uint64(rows.shape[1]), np.uint64(len(order)) * _GROUP
    kept = 0
    for place in range(len(named)):
        if place + AHEAD < len(named):
            prefetch_line(rows, np.int64(named[place + AHEAD]), 0)
        class_id, total = named[place], np.uint64(0)
        row = class_id * width
        for group in order:
            begin = np.uint64(group) * _GROUP
            total += _group_steps(flat, buckets, begin * across, row + begin, across)
            if total > most:
                break
        if total <= most:
            for world in range(rest, worlds):
                total += flat[world * across + buckets[row + world]]
        named[kept] = class_id
        kept += int(total <= most)
    return kept


@exact_kernel
def _sift_computed(
    named: Words,
    classes: int,
    bits: int,
    low_bits: int,
    keys: Words,
    steps: Steps,
    limit: int,
    order: Ids,
) -> int:
    images, totals = np.empty(len(named), np.uint64), np.zeros(len(named), np.int64)
    across, size = np.uint64(steps.shape[1]), len(named)
    # The worlds that fill no group of their own are one more.
    for group in range(len(order) + 1):
        begin = GROUP * (order[group] if group < len(order) else group)
        for world in range(begin, min(begin + GROUP, len(steps))):
            permute_words(named[:size], classes, bits, low_bits, keys[world], False, images)
            for place in range(size):
                totals[place] += steps[world, images[place] % across]
        kept = 0
        for place in range(size):
            named[kept], totals[kept] = named[place], totals[place]
            kept += int(totals[place] <= limit)
        size = kept
    return size


@exact_kernel
def score_classes(mode: int, scores: Floats, rows: Rows, classes: Ids, out: Floats) -> None:
    """Write the reduced scores of some classes.

    Args:
        mode: `SUM`, `MIN` or `MEDIAN`.
        scores: (R, B) float32.
        rows: (K, R or more) every class's bucket in each world.
        classes: (n,) ids.
        out: (n,) written.
    """
    values = np.empty(len(scores), np.float32)
    for place in range(len(classes)):
        if place + AHEAD < len(classes):
            prefetch_line(rows, classes[place + AHEAD], 0)
        out[place] = _score(mode, scores, rows[classes[place]], values)


@exact_kernel
def _score(mode: int, scores: Floats, buckets: Rows, values: Floats) -> np.float32:
    """Return the reduced score of a class, as the plain definition does; `values` is work space."""
    for world in range(len(scores)):
        values[world] = scores[world, buckets[world]]
    score: np.float32 = values[0]
    if mode == SUM:
        for value in values[1:]:
            score += value
    elif mode == MIN:
        score = values.min()
    else:
        score = _median(values)
    return score


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
