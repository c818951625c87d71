"""The k best classes of each query, exactly, without ever holding K x queries scores.

Classes are ordered by (reduced score descending, class id ascending). That
order is total and a score is summed over the worlds in the order of their
numbers, so the answer does not depend on threads, blocks or batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.ensemble.combiners import Combiner, Reduction
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.scan import GROUP, MEDIAN, MIN, SUM, scan, scan_sums, turn
from workers.errors import DataError
from workers.partition import Partition
from workers.threads import Pool, spans

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

QUERIES = 256
"""Queries that are answered together; their bucket scores are copied once, R * B * 1 kB."""
TILE = 32
"""Queries in one row of that copy: a lookup is then two whole cache lines."""
BLOCK = 1 << 16
"""Classes whose bucket numbers are taken at a time: many times B, so that a tile of scores that
was brought into the cache is used often before the next one replaces it."""

_MODES: dict[Reduction, int] = {"sum": SUM, "min": MIN, "median": MEDIAN}


class ClassLists(NamedTuple):
    """Lists of classes, one for each query: query i has classes[offsets[i]:offsets[i + 1]]."""

    offsets: Ids
    """(n + 1,) int64."""
    classes: Ids
    """Class ids in [0, K), in any order; int64."""

    def of(self, start: int, stop: int) -> ClassLists:
        """Return the lists of the queries [start, stop)."""
        first, last = self.offsets[start], self.offsets[stop]
        return ClassLists(self.offsets[start : stop + 1] - first, self.classes[first:last])


def full(
    scores: Floats,
    lookup: BucketLookup,
    k: int,
    combiner: Combiner,
    pool: Pool,
    *,
    leave_out: ClassLists | None = None,
    keep_to: ClassLists | None = None,
    block: int = BLOCK,
) -> tuple[Ids, Floats]:
    """Return the k best of all K classes for each query.

    Args:
        scores: (R, n, B) float32, finite: `combiner.transform` of the worlds' bucket
            probabilities. R may be less than the lookup's: then of its first R worlds.
        lookup: where the classes are in `scores`.
        k: how many classes.
        combiner: whose reduction and finish to apply.
        pool: threads to use.
        leave_out: classes that each query must not be given.
        keep_to: the only classes that each query may be given, an empty list meaning none.
        block: classes whose bucket numbers are taken at a time.

    Returns:
        Class ids (n, k) int64 and finished scores (n, k) float32, best first, padded with -1
        and -inf where fewer than k classes are allowed.

    Raises:
        DataError: if `scores`, `k` or a list does not fit the lookup.
    """
    check_lists(keep_to, scores.shape[1], lookup.classes)
    hidden, ids, found = prepared(scores, lookup, k, leave_out)
    scores = np.ascontiguousarray(scores)
    worlds, queries, _ = scores.shape
    for start, stop in spans(queries, QUERIES):
        search = _Search(
            scores[:, start:stop], lookup, min(k, lookup.classes), combiner, pool, block
        )
        kept = None if keep_to is None else keep_to.of(start, stop)
        best = search.all(hidden.of(start, stop), kept)
        ids[start:stop, : search.k], found[start:stop, : search.k] = best
    return finished(ids, found, lookup, worlds, combiner)


def prepared(
    scores: Floats | Tensor, lookup: BucketLookup, k: int, leave_out: ClassLists | None
) -> tuple[ClassLists, Ids, Floats]:
    """Check what a search is given; return what is hidden, ascending, and room for the answers.

    Raises:
        DataError: if `scores`, `k` or a list does not fit the lookup.
    """
    _check(scores, lookup, k)
    queries = scores.shape[1]
    check_lists(leave_out, queries, lookup.classes)
    ids = np.full((queries, k), -1, dtype=np.int64)
    return _sorted_lists(leave_out, queries), ids, np.full((queries, k), -np.inf, dtype=np.float32)


def finished(
    ids: Ids, found: Floats, lookup: BucketLookup, worlds: int, combiner: Combiner
) -> tuple[Ids, Floats]:
    """Return class ids and, of their reduced scores, the scores that are reported."""
    return ids, combiner.finish(found, worlds, _chance(lookup.partitions[:worlds]))


def scored(
    scores: Floats, partitions: Sequence[Partition], classes: Ids, combiner: Combiner
) -> Floats:
    """Return the reduced scores (..., n) of n classes, from scores (R, ..., B)."""
    pairs = zip(scores, partitions, strict=True)
    return combiner.reduce(np.stack([s[..., part.buckets_of(classes)] for s, part in pairs]))


def brute_force(
    scores: Floats,
    partitions: Sequence[Partition],
    k: int,
    combiner: Combiner,
    *,
    leave_out: ClassLists | None = None,
    keep_to: ClassLists | None = None,
) -> tuple[Ids, Floats]:
    """Return what `full` returns, holding K scores for every query: the plain definition."""
    classes = np.arange(partitions[0].classes)
    reduced = scored(scores, partitions, classes, combiner)
    ids = np.full((len(reduced), k), -1, dtype=np.int64)
    found = np.full((len(reduced), k), -np.inf, dtype=np.float32)
    for i, values in enumerate(reduced):
        allowed = classes if keep_to is None else np.unique(keep_to.of(i, i + 1).classes)
        if leave_out is not None:
            allowed = np.setdiff1d(allowed, leave_out.of(i, i + 1).classes)
        best = allowed[np.lexsort((allowed, -values[allowed]))][:k]
        ids[i, : len(best)], found[i, : len(best)] = best, values[best]
    return ids, combiner.finish(found, len(partitions), _chance(partitions))


def _chance(partitions: Sequence[Partition]) -> float:
    return sum(p.collision_chance for p in partitions) / len(partitions)


def _check(scores: Floats | Tensor, lookup: BucketLookup, k: int) -> None:
    most = len(lookup.partitions)
    fits = scores.ndim == 3 and 1 <= len(scores) <= most and scores.shape[2] == lookup.buckets
    kind = str(scores.dtype).removeprefix("torch.")
    if not fits or kind != "float32":
        raise DataError(
            f"scores: expected float32 of (1 to {most} worlds, queries, {lookup.buckets} buckets),"
            f" found {kind} of {tuple(scores.shape)}; give the bucket scores of the worlds whose"
            " partitions the lookup has"
        )
    if k < 1:
        raise DataError(f"k: expected at least 1 class to return, found {k}")


def check_lists(lists: ClassLists | None, queries: int, classes: int) -> None:
    """Check that there is a list for each query, of classes from 0 to K - 1.

    Raises:
        DataError: if not.
    """
    if lists is None:
        return
    ends = lists.offsets[[0, -1]].tolist() if len(lists.offsets) else [0, 0]
    if len(lists.offsets) != queries + 1 or ends[1] != len(lists.classes):
        raise DataError(
            f"class lists: expected {queries + 1} offsets that end at {len(lists.classes)},"
            f" found {len(lists.offsets)} that end at {ends[1]};"
            " give every query a list, an empty one if need be"
        )
    if ends[0] != 0 or (np.diff(lists.offsets) < 0).any():
        raise DataError(
            "class lists: expected offsets that begin at 0 and never fall, found others;"
            " the list of query i is classes[offsets[i]:offsets[i + 1]]"
        )
    outside = (lists.classes < 0) | (lists.classes >= classes)
    if outside.any():
        raise DataError(
            f"class lists: expected class ids from 0 to {classes - 1:,},"
            f" found {lists.classes[outside][0]}; take it off the lists"
        )


def _sorted_lists(lists: ClassLists | None, queries: int) -> ClassLists:
    """Return the lists with ascending classes, as the kernel's binary search needs them."""
    if lists is None:
        return ClassLists(np.zeros(queries + 1, dtype=np.int64), np.empty(0, dtype=np.int64))
    owners = np.repeat(np.arange(queries), np.diff(lists.offsets))
    order = np.lexsort((lists.classes, owners))
    return ClassLists(lists.offsets.astype(np.int64), lists.classes[order].astype(np.int64))


class _Search:
    """The search for the best classes of at most `QUERIES` queries."""

    def __init__(
        self,
        scores: Floats,
        lookup: BucketLookup,
        k: int,
        combiner: Combiner,
        pool: Pool,
        block: int,
    ) -> None:
        self.scores = scores
        self.worlds, self.queries, _ = scores.shape
        self.lookup = lookup
        self.k = k
        self.mode = _MODES[combiner.reduction]
        self.pool = pool
        self.block = block
        self.rest = self._rest()

    def _rest(self) -> Floats:
        """Return the most that the worlds after each group may add, (groups, queries) float32.

        Nothing, to a minimum. To a sum, their best scores; rounded sums of R float32 numbers
        are off by less than R halves of a last place of the largest sum that there can be, and
        the comparison rounds once more.
        """
        groups = -(-self.worlds // GROUP)
        if self.mode != SUM:
            return np.zeros((groups, self.queries), dtype=np.float32)
        top = np.empty((self.worlds, self.queries), dtype=np.float64)
        largest = np.empty((self.worlds, self.queries), dtype=np.float64)

        def bound(world: int) -> None:
            top[world] = self.scores[world].max(axis=1)
            largest[world] = np.maximum(top[world], -self.scores[world].min(axis=1))

        self.pool.run(bound, [(world,) for world in range(self.worlds)])
        slack = (self.worlds + 2) * 2.0**-23 * largest.sum(axis=0)
        # after[r] adds up the worlds from r on.
        after = np.zeros((GROUP * groups + 1, self.queries), dtype=np.float64)
        after[: self.worlds] = top[::-1].cumsum(axis=0)[::-1]
        later: Floats = (after[GROUP::GROUP] + slack).astype(np.float32)
        return later

    def all(self, hidden: ClassLists, kept: ClassLists | None) -> tuple[Ids, Floats]:
        """Return the best classes (queries, k) and their reduced scores, best first."""
        parts = self._over_classes(hidden) if kept is None else self._over_lists(hidden, kept)
        ids = np.concatenate(list(parts[0]), axis=1)
        found = np.concatenate(list(parts[1]), axis=1)
        order = np.lexsort((ids, -found))[:, : self.k]
        return np.take_along_axis(ids, order, 1), np.take_along_axis(found, order, 1)

    def _heaps(self, parts: int) -> tuple[Ids, Floats]:
        shape = (parts, self.queries, self.k)
        return np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)

    def _over_lists(self, hidden: ClassLists, kept: ClassLists) -> tuple[Ids, Floats]:
        ids, found = self._heaps(1)

        def search(query: int) -> None:
            table = self.scores[:, query].reshape(-1, 1)
            classes = np.unique(kept.of(query, query + 1).classes).astype(np.int64)
            tile = slice(query, query + 1)
            rest = np.ascontiguousarray(self.rest[:, tile])
            for start, stop in spans(len(classes), self.block):
                some = classes[start:stop]
                rows = self.lookup.rows(some, self.worlds)
                best = ids[0, tile], found[0, tile]
                mine = hidden.of(query, query + 1)
                scan(self.mode, table, self.lookup.buckets, rest, rows, some, *mine, *best)

        self.pool.run(search, [(query,) for query in range(self.queries)])
        return ids, found

    def _over_classes(self, hidden: ClassLists) -> tuple[Ids, Floats]:
        tiles = spans(self.queries, TILE)
        tables = self._tables(tiles)
        rests = [np.ascontiguousarray(self.rest[:, slice(*tile)]) for tile in tiles]
        # Rows that must be computed are computed for all queries at once.
        groups = spans(len(tiles), 1 if self.lookup.stored is not None else len(tiles))
        # Few queries and many threads: the classes are shared out too.
        size = -(-self.lookup.classes * len(groups) // self.pool.threads)
        parts = spans(self.lookup.classes, size)
        ids, found = self._heaps(len(parts))

        def search(part: int, first: int, last: int) -> None:
            low, high = parts[part]
            for start in range(low, high, self.block):
                classes = np.arange(start, min(start + self.block, high))
                rows = self.lookup.rows_between(start, min(start + self.block, high), self.worlds)
                if self.queries == 1 and self.mode == SUM:
                    best = ids[part, 0], found[part, 0]
                    table = tables[0].reshape(-1), self.lookup.buckets, self.rest.reshape(-1)
                    scan_sums(*table, rows, start, hidden.classes, *best)
                    continue
                for tile in range(first, last):
                    queries = slice(*tiles[tile])
                    mine = hidden.of(*tiles[tile])
                    best = ids[part, queries], found[part, queries]
                    table = tables[tile], self.lookup.buckets, rests[tile]
                    scan(self.mode, *table, rows, classes, *mine, *best)

        self.pool.run(search, [(p, *group) for p in range(len(parts)) for group in groups])
        return ids, found

    def _tables(self, tiles: list[tuple[int, int]]) -> list[Floats]:
        """Return for each tile the scores as (R * B, queries): a bucket's queries side by side."""
        buckets = self.lookup.buckets
        tables = [
            np.empty((self.worlds * buckets, stop - start), dtype=np.float32)
            for start, stop in tiles
        ]

        def turn_one(tile: int, world: int) -> None:
            source = self.scores[world, slice(*tiles[tile])]
            turn(source, tables[tile][world * buckets : (world + 1) * buckets])

        self.pool.run(turn_one, [(t, r) for t in range(len(tiles)) for r in range(self.worlds)])
        return tables
