"""The compiled inside of retrieval: score a block of classes for a tile of queries.

Loops run over the queries innermost, which lie side by side in memory, so they
vectorise. Sums over worlds keep the order of the worlds: scores equal those of
`brute_force` to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.jit import exact_kernel

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Rows = NDArray[np.integer[Any]]

SUM, MIN, MEDIAN = 0, 1, 2
GROUP = 4
"""Worlds that are asked before a class is given up that the others cannot lift above the bar."""


@exact_kernel
def turn(source: Floats, out: Floats) -> None:
    """Write out[bucket, query] = source[query, bucket]."""
    for bucket in range(out.shape[0]):
        for query in range(out.shape[1]):
            out[bucket, query] = source[query, bucket]


@exact_kernel
def scan(
    mode: int,
    table: Floats,
    buckets: int,
    rest: Floats,
    rows: Rows,
    classes: Ids,
    hidden_offsets: Ids,
    hidden: Ids,
    ids: Ids,
    found: Floats,
) -> None:
    """Offer classes to the heaps that hold the k best of each query so far.

    A class is given up as soon as the worlds that were asked leave it no hope for any query.

    Args:
        mode: `SUM`, `MIN` or `MEDIAN`.
        table: (R * B, queries) bucket scores.
        buckets: B.
        rest: (groups of `GROUP` worlds, queries) the most that all later worlds may still add.
        rows: (classes, R), each class's bucket in each world.
        classes: ascending ids, all higher than any in the heaps.
        hidden_offsets: (queries + 1,) offsets into `hidden`.
        hidden: ascending ids that a query must not be given.
        ids: (queries, k) ids in the heaps, changed in place; -1 for none.
        found: (queries, k) their reduced scores, changed in place; -inf for none.
    """
    worlds, width = rows.shape[1], table.shape[1]
    values = np.empty((worlds, width), dtype=np.float32)
    score = values[0]
    bar = found[:, 0].copy()
    for c in range(len(classes)):
        if mode == SUM:
            hope = _sum(table, buckets, rest, rows[c], bar, score)
        elif mode == MIN:
            hope = _min(table, buckets, rest, rows[c], bar, score)
        else:
            hope = True
            _median(table, buckets, rows[c], values)
        if not hope:
            continue
        passed = np.int32(0)
        for query in range(width):
            passed |= np.int32(score[query] > bar[query])
        if passed == 0:
            continue
        for query in range(width):
            # An equal score does not pass: its class is higher than those in the heap.
            if score[query] > bar[query]:
                first, last = hidden_offsets[query], hidden_offsets[query + 1]
                if not _contains(hidden[first:last], classes[c]):
                    _replace_worst(found[query], ids[query], score[query], classes[c])
                    bar[query] = found[query, 0]


@exact_kernel
def scan_sums(
    scores: Floats,
    buckets: int,
    rest: Floats,
    rows: Rows,
    first: int,
    hidden: Ids,
    ids: Ids,
    found: Floats,
) -> None:
    """Do what `scan` does with the mode `SUM`, for one query.

    Four classes side by side: their sums wait neither for each other nor for a loop over queries.

    Args:
        scores: (R * B,) bucket scores.
        buckets: B.
        rest: (groups of `GROUP` worlds,) the most that all later worlds may still add.
        rows: (n, R) the bucket in each world of the classes `first`, `first` + 1, …
        first: higher than any class in the heap.
        hidden: ascending ids that must not be given.
        ids: (k,) ids in the heap, changed in place; -1 for none.
        found: (k,) their reduced scores, changed in place; -inf for none.
    """
    worlds = rows.shape[1]
    whole = len(rows) - len(rows) % 4
    for c in range(0, whole, 4):
        a, b, d, e = rows[c], rows[c + 1], rows[c + 2], rows[c + 3]
        one, two, three, four = scores[a[0]], scores[b[0]], scores[d[0]], scores[e[0]]
        bar = found[0]
        base, hope = 0, True
        for group in range(len(rest)):
            for world in range(max(1, group * GROUP), min((group + 1) * GROUP, worlds)):
                base += buckets
                one += scores[base + a[world]]
                two += scores[base + b[world]]
                three += scores[base + d[world]]
                four += scores[base + e[world]]
            hope = max(max(one, two), max(three, four)) + rest[group] > bar
            if not hope:
                break
        if hope:
            _offer(one, first + c, hidden, ids, found)
            _offer(two, first + c + 1, hidden, ids, found)
            _offer(three, first + c + 2, hidden, ids, found)
            _offer(four, first + c + 3, hidden, ids, found)
    for c in range(whole, len(rows)):
        total = scores[rows[c, 0]]
        for world in range(1, worlds):
            total += scores[world * buckets + rows[c, world]]
        _offer(total, first + c, hidden, ids, found)


@exact_kernel
def _offer(score: np.float32, class_id: int, hidden: Ids, ids: Ids, found: Floats) -> None:
    # An equal score does not pass: its class is higher than those in the heap.
    if score > found[0] and not _contains(hidden, class_id):
        _replace_worst(found, ids, score, class_id)


@exact_kernel
def _sum(table: Floats, buckets: int, rest: Floats, rows: Rows, bar: Floats, out: Floats) -> bool:
    """Write the sums, and return whether one may pass its bar; if none, they are not whole."""
    first = table[rows[0]]
    for query in range(len(out)):
        out[query] = first[query]
    for group in range(len(rest)):
        for world in range(max(1, group * GROUP), min((group + 1) * GROUP, len(rows))):
            values = table[world * buckets + rows[world]]
            for query in range(len(out)):
                out[query] += values[query]
        if not _hope(out, rest[group], bar):
            return False
    return True


@exact_kernel
def _min(table: Floats, buckets: int, rest: Floats, rows: Rows, bar: Floats, out: Floats) -> bool:
    """Write the minima, and return whether one may pass its bar; if none, they are not whole."""
    first = table[rows[0]]
    for query in range(len(out)):
        out[query] = first[query]
    for group in range(len(rest)):
        for world in range(max(1, group * GROUP), min((group + 1) * GROUP, len(rows))):
            values = table[world * buckets + rows[world]]
            for query in range(len(out)):
                out[query] = values[query] if values[query] < out[query] else out[query]
        if not _hope(out, rest[group], bar):
            return False
    return True


@exact_kernel
def _hope(score: Floats, rest: Floats, bar: Floats) -> bool:
    passed = np.int32(0)
    for query in range(len(score)):
        passed |= np.int32(score[query] + rest[query] > bar[query])
    return bool(passed != 0)


@exact_kernel
def _median(table: Floats, buckets: int, rows: Rows, values: Floats) -> None:
    """Write the medians into values[0]; all of `values` (worlds, queries) is work space."""
    worlds, width = values.shape
    for world in range(worlds):
        source = table[world * buckets + rows[world]]
        for query in range(width):
            values[world, query] = source[query]
    # Odd-even transposition sort: the same exchanges for every query, so they vectorise.
    for step in range(worlds):
        for world in range(step % 2, worlds - 1, 2):
            lower, upper = values[world], values[world + 1]
            for query in range(width):
                a, b = lower[query], upper[query]
                lower[query] = a if a < b else b
                upper[query] = b if a < b else a
    middle, other = values[worlds // 2], values[worlds - 1 - worlds // 2]
    for query in range(width):
        values[0, query] = (middle[query] + other[query]) * np.float32(0.5)


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
def _replace_worst(found: Floats, ids: Ids, score: np.float32, class_id: int) -> None:
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
