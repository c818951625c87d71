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

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.lookup import BucketLookup, Rows
from orchestrator.ensemble.scan import scan, score_classes
from orchestrator.ensemble.sieve import MODES, Bounds, Sieve
from workers.errors import DataError
from workers.partition import Partition
from workers.threads import Pool, spans

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

QUERIES = 256
"""Queries that are answered together; each takes R * B bytes."""
BLOCK = 1 << 15
"""Classes that are sieved at a time."""
SAMPLE = 1 << 12
"""Classes that are scored first, for a bar that the others must reach."""
_NO_STEPS = np.empty((0, 1), np.uint8)


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
    floors: Floats | None = None,
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
        floors: (n,) float32 reduced scores that k classes of a query are known to reach, for a
            quicker start; -inf where none is known.
        block: classes that are sieved at a time.

    Returns:
        Class ids (n, k) int64 and finished scores (n, k) float32, best first, padded with -1
        and -inf where fewer than k classes are allowed.

    Raises:
        DataError: if `scores`, `k` or a list does not fit the lookup.
    """
    check_lists(keep_to, scores.shape[1], lookup.classes)
    hidden, ids, found = prepared(scores, lookup, k, leave_out)
    worlds, queries, _ = scores.shape
    fewer = min(k, lookup.classes)
    if keep_to is not None:

        def keep(query: int) -> None:
            kept, out = (lists.of(query, query + 1).classes for lists in (keep_to, hidden))
            best = _listed(scores[:, query], lookup, fewer, combiner, np.setdiff1d(kept, out))
            ids[query, : len(best[0])], found[query, : len(best[0])] = best

        pool.run(keep, [(query,) for query in range(queries)])
        return finished(ids, found, lookup, worlds, combiner)
    for start, stop in spans(queries, QUERIES):
        search = _Search(scores[:, start:stop], lookup, fewer, combiner, pool)
        known = floors is not None and bool((floors[start:stop] > -np.inf).all())
        bars = floors[start:stop] if floors is not None and known else None
        best = search.all(hidden.of(start, stop), bars, block)
        ids[start:stop, :fewer], found[start:stop, :fewer] = best
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
    return ids, combiner.finish(found, worlds, chance(lookup.partitions[:worlds]))


def scored(scores: Floats, lookup: BucketLookup, classes: Ids, combiner: Combiner) -> Floats:
    """Return the reduced scores (n,) of n classes, from one query's scores (R, B)."""
    if lookup.stored is None:
        rows = lookup.buckets_of(classes, len(scores))
        return combiner.reduce(np.take_along_axis(scores, rows, axis=1))
    out = np.empty(len(classes), np.float32)
    score_classes(MODES[combiner.reduction], scores, lookup.stored, classes, out)
    return out


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
    pairs = zip(scores, partitions, strict=True)
    reduced = combiner.reduce(np.stack([s[:, part.buckets_of(classes)] for s, part in pairs]))
    ids = np.full((len(reduced), k), -1, dtype=np.int64)
    found = np.full((len(reduced), k), -np.inf, dtype=np.float32)
    for i, values in enumerate(reduced):
        allowed = classes if keep_to is None else np.unique(keep_to.of(i, i + 1).classes)
        if leave_out is not None:
            allowed = np.setdiff1d(allowed, leave_out.of(i, i + 1).classes)
        best = allowed[np.lexsort((allowed, -values[allowed]))][:k]
        ids[i, : len(best)], found[i, : len(best)] = best, values[best]
    return ids, combiner.finish(found, len(partitions), chance(partitions))


def chance(partitions: Sequence[Partition]) -> float:
    """Return q, the chance that two classes share a bucket, over all worlds."""
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
    """The search for the best classes of at most `QUERIES` queries among all of them."""

    def __init__(
        self, scores: Floats, lookup: BucketLookup, k: int, combiner: Combiner, pool: Pool
    ) -> None:
        self.scores = scores
        self.worlds, self.queries, _ = scores.shape
        self.lookup = lookup
        self.k = k
        self.combiner = combiner
        self.pool = pool
        self.sieves: list[Sieve | None] = [None] * self.queries
        """None where there is no bar yet."""

    def all(self, hidden: ClassLists, floors: Floats | None, block: int) -> tuple[Ids, Floats]:
        """Return the best classes (queries, k) and their reduced scores, best first."""
        classes = self.lookup.classes
        ids = np.full((self.queries, self.k), -1, np.int64)
        found = np.full((self.queries, self.k), -np.inf, np.float32)
        sample = 0
        if floors is None:
            # So many that there is a bar, and that it is not far from the last one.
            sample = min(classes, max(SAMPLE, 4 * self.k))
            part = self.lookup.rows(0, sample, self.worlds)

            def first(query: int) -> None:
                alive = np.empty(sample + 1, np.int32)
                self._scan(query, part, 0, hidden, ids[query], found[query], alive)

            self.pool.run(first, [(query,) for query in range(self.queries)])
            floors = found[:, 0]
        if sample == classes:
            return _best(ids, found, self.k)
        self.pool.run(self._prepare, [(i, float(floors[i])) for i in range(self.queries)])
        parts = spans(classes - sample, -(-(classes - sample) // self.pool.threads))
        # Whatever reaches the floor takes the place of what is just below it and no class.
        below = np.nextafter(floors, np.float32(-np.inf))
        others = np.repeat(below[None, :, None], len(parts), axis=0).repeat(self.k, axis=2)
        none = np.full(others.shape, -1, np.int64)

        def rest(part: int) -> None:
            begin, end = parts[part]
            alive = np.empty(block + 1, np.int32)
            for start, stop in spans(end - begin, block):
                low = sample + begin + start
                some = self.lookup.rows(low, low + stop - start, self.worlds)
                for query in range(self.queries):
                    heap = none[part, query], others[part, query]
                    self._scan(query, some, low, hidden, *heap, alive)

        self.pool.run(rest, [(part,) for part in range(len(parts))])
        return _best(
            np.concatenate([ids, *none], axis=1), np.concatenate([found, *others], axis=1), self.k
        )

    def _prepare(self, query: int, floor: float) -> None:
        """Make the sieve of a query, if there is a bar to reach."""
        if floor > -np.inf:
            scores = np.ascontiguousarray(self.scores[:, query])
            self.sieves[query] = Sieve(scores, Bounds.of(scores), self.combiner, floor)

    def _scan(
        self,
        query: int,
        part: tuple[Rows, int, int],
        first: int,
        hidden: ClassLists,
        ids: Ids,
        found: Floats,
        alive: NDArray[np.int32],
    ) -> None:
        """Offer a part of the lookup, whose first class is `first`, to a query's heap."""
        sieve = self.sieves[query]
        if sieve is None:
            how = _NO_STEPS, 0, np.empty(0, np.int64)
        else:
            how = sieve.steps, sieve.limit(float(found[0])), sieve.order
        scan(
            MODES[self.combiner.reduction],
            self.scores[:, query],
            *how,
            *part,
            first,
            hidden.of(query, query + 1).classes,
            ids,
            found,
            alive,
        )


def _listed(
    scores: Floats, lookup: BucketLookup, k: int, combiner: Combiner, allowed: Ids
) -> tuple[Ids, Floats]:
    """Return the best of some classes and their reduced scores, for one query's (R, B) scores."""
    found = scored(scores, lookup, allowed, combiner)
    best = np.lexsort((allowed, -found))[:k]
    return allowed[best], found[best]


def _best(ids: Ids, found: Floats, k: int) -> tuple[Ids, Floats]:
    """Return the k best of each row, best first, of equal ones the lower id."""
    order = np.lexsort((ids, -found))[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(found, order, 1)
