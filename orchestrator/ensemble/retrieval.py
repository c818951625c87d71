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
from orchestrator.ensemble.lookup import BucketLookup, Rows
from orchestrator.ensemble.scan import MEDIAN, MIN, SUM, count_steps, scan
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
ALLOWED = 1024
"""Steps by which a class of the k best may be below the best of all worlds."""
_TINY = 1e-30

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
            quicker start.
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
        bars = None if floors is None else floors[start:stop]
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
    return ids, combiner.finish(found, worlds, _chance(lookup.partitions[:worlds]))


class Bounds(NamedTuple):
    """What one query's scores in R worlds can add up to."""

    tops: NDArray[np.float64]
    """(R,) the best score of each world."""
    bottoms: NDArray[np.float64]
    """(R,) the worst."""
    slack: float
    """What float32 may have rounded: a sum of R numbers is off by less than R halves of a last
    place of the largest sum that there can be."""
    order: Ids
    """(R,) the worlds whose scores are furthest below their best come first."""


def bounds(scores: Floats) -> Bounds:
    """Return the bounds of one query's scores (R, B)."""
    tops, bottoms = (found.astype(np.float64) for found in (scores.max(axis=1), scores.min(axis=1)))
    slack = len(scores) * 2.0**-23 * float(np.maximum(tops, -bottoms).sum())
    deficits = tops - scores.mean(axis=1, dtype=np.float64)
    return Bounds(tops, bottoms, slack, np.argsort(-deficits, kind="stable"))


def scored(scores: Floats, lookup: BucketLookup, classes: Ids, combiner: Combiner) -> Floats:
    """Return the reduced scores (n,) of n classes, from one query's scores (R, B)."""
    rows = lookup.buckets_of(classes, len(scores))
    return combiner.reduce(np.take_along_axis(scores, rows, axis=1))


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
    """The search for the best classes of at most `QUERIES` queries among all of them.

    A class is out once it lacks more than it may. For a sum that is the distance of the bar, the
    k-th best score found so far, from the sum of the worlds' best scores, loosened by what float32
    may have rounded (`Bounds.slack`). For a minimum or median it is a number of worlds whose scores
    do not reach the bar: none, or ⌊R/2⌋, since the higher of the two middle scores must reach it.
    """

    def __init__(
        self, scores: Floats, lookup: BucketLookup, k: int, combiner: Combiner, pool: Pool
    ) -> None:
        self.scores = scores
        self.worlds, self.queries, buckets = scores.shape
        self.lookup = lookup
        self.k = k
        self.mode = _MODES[combiner.reduction]
        self.pool = pool
        self.steps = np.empty((self.queries, self.worlds, buckets), np.uint8)
        self.order = [np.empty(0, np.int64)] * self.queries
        """By which worlds to sieve, for each query; none where there is no bar yet."""
        self.highest = np.zeros(self.queries)
        self.width = np.ones(self.queries)

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
                self._scan(
                    query, part, 0, hidden, ids[query], found[query], np.empty(sample, np.int32)
                )

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
            alive = np.empty(block + 1, np.int32)
            for start, stop in spans(parts[part][1] - parts[part][0], block):
                low = sample + parts[part][0] + start
                some = self.lookup.rows(low, low + stop - start, self.worlds)
                for query in range(self.queries):
                    heap = none[part, query], others[part, query]
                    self._scan(query, some, low, hidden, *heap, alive)

        self.pool.run(rest, [(part,) for part in range(len(parts))])
        return _best(
            np.concatenate([ids, *none], axis=1), np.concatenate([found, *others], axis=1), self.k
        )

    def _prepare(self, query: int, floor: float) -> None:
        """Write the steps of a query's buckets, if there is a bar to reach."""
        if floor == -np.inf:
            return
        scores, steps = self.scores[:, query], self.steps[query]
        if self.mode != SUM:
            np.less(scores, np.float32(floor), out=steps.view(bool))
            self.highest[query] = self.worlds // 2 if self.mode == MEDIAN else 0
            self.order[query] = np.argsort(-steps.sum(axis=1, dtype=np.int64), kind="stable")
            return
        tops, _, slack, self.order[query] = bounds(scores)
        self.highest[query] = tops.sum() + slack
        self.width[query] = max(self.highest[query] - floor, _TINY) / ALLOWED
        for world in range(self.worlds):
            count_steps(scores[world], tops[world], self.width[query], steps[world])

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
        limit = self.highest[query]
        if self.mode == SUM and len(self.order[query]):
            limit = (self.highest[query] - float(found[0])) / self.width[query] + 1
        scan(
            self.mode,
            self.scores[:, query],
            self.steps[query],
            int(limit),
            self.order[query],
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
    ids, found = np.empty(0, np.int64), np.empty(0, np.float32)
    for start, stop in spans(len(allowed), BLOCK):
        ids = np.concatenate([ids, allowed[start:stop]])
        some = scored(scores, lookup, allowed[start:stop], combiner)
        found = np.concatenate([found, some])
        best = np.lexsort((ids, -found))[:k]
        ids, found = ids[best], found[best]
    return ids, found


def _best(ids: Ids, found: Floats, k: int) -> tuple[Ids, Floats]:
    """Return the k best of each row, best first, of equal ones the lower id."""
    order = np.lexsort((ids, -found))[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(found, order, 1)
