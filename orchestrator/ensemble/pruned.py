"""The k best classes of a query, exactly, from a small part of all classes.

A class can only be among the k best if its reduced score reaches the *bar*, the
k-th best score found so far. Worlds show their buckets best first; once the
classes of enough good buckets have been looked at, no class that was not among
them can reach the bar, whatever it is (the threshold algorithm of Fagin, Lotem
and Naor, PODS 2001, with buckets in place of single objects). Why not, for each
reduction, with s_r the score of a class's bucket in world r and M_r the best
score of that world:

- `sum` (`mean`, `log`): a class outside all buckets looked at has a deficit
  M_r - s_r in every world that is no less than the least deficit l_r of that
  world's other buckets. Its sum is at most Σ (M_r - l_r). If that is below the
  bar, the search is over. Any choice of l_r will do, so those are taken that
  add most to Σ l_r for the fewest buckets (`cover.cheapest_cover`).
- `min`: every world must reach the bar. Once all buckets of a single world that
  do have been looked at, the search is over: the world that has fewest.
- `median`: R - ⌊R/2⌋ worlds must reach the bar, since the higher of the two
  middle scores must. Among any ⌊R/2⌋ + 1 worlds there is one of them. Once all
  buckets that reach the bar of so many worlds have been looked at, the search
  is over: the worlds that have fewest.

The bar rises while buckets are looked at, so the search starts with the most
promising ones and asks again how many are enough. A class is dropped as soon as
it cannot reach the bar even if it is the best in all worlds that are still to be
asked; those that stay are scored exactly as `brute_force` does. Bounds are sums
in float64, loosened by what float32 may have rounded; a class that may equal
the bar stays, as its number may be the lower one.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.cover import (
    BINS,
    cheapest_cover,
    rank_buckets,
    sift,
    sift_rows,
)
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.retrieval import (
    ClassLists,
    Floats,
    Ids,
    finished,
    full,
    prepared,
    scored,
)
from workers.threads import Pool, spans

LOOKED_AT = 0.25
"""Share of all classes beyond which it is quicker to look at all of them."""
GROWTH = 3
"""How many times the buckets looked at so far the next round may add."""
CHUNK = 1 << 15
"""Classes that are sifted at a time."""


def pruned(
    scores: Floats,
    lookup: BucketLookup,
    k: int,
    combiner: Combiner,
    pool: Pool,
    *,
    leave_out: ClassLists | None = None,
    keep_to: ClassLists | None = None,
) -> tuple[Ids, Floats]:
    """Return what `full` returns, from as few classes as it takes to be sure.

    Where that would be more than `LOOKED_AT` of them, or partitions cannot list the classes of
    a bucket, or only the classes of `keep_to` matter, it is `full` that answers.

    Args:
        scores: (R, n, B) float32, finite, as for `full`.
        lookup: where the classes are in `scores`.
        k: how many classes.
        combiner: whose reduction and finish to apply.
        pool: threads to use.
        leave_out: classes that each query must not be given.
        keep_to: the only classes that each query may be given, an empty list meaning none.

    Returns:
        Class ids (n, k) int64 and finished scores (n, k) float32, best first, padded with -1
        and -inf where fewer than k classes are allowed.

    Raises:
        DataError: if `scores`, `k` or a list does not fit the lookup.
    """
    if keep_to is not None or not lookup.invertible:
        return full(scores, lookup, k, combiner, pool, leave_out=leave_out, keep_to=keep_to)
    hidden, ids, found = prepared(scores, lookup, k, leave_out)
    queries = scores.shape[1]
    unsure: list[int] = []

    def search(query: int) -> None:
        threads = pool if queries == 1 else None
        best = Search(scores[:, query], lookup, k, combiner, hidden.of(query, query + 1), threads)
        if best.search():
            ids[query, : len(best.ids)], found[query, : len(best.ids)] = best.ids, best.found
        else:
            unsure.append(query)

    if queries == 1:
        search(0)
    else:
        pool.run(search, [(query,) for query in range(queries)])
    result = finished(ids, found, lookup, len(scores), combiner)
    if unsure:
        rest = np.sort(np.array(unsure))
        lists = None if leave_out is None else chosen(leave_out, rest)
        result[0][rest], result[1][rest] = full(
            np.ascontiguousarray(scores[:, rest]), lookup, k, combiner, pool, leave_out=lists
        )
    return result


def chosen(lists: ClassLists, queries: Ids) -> ClassLists:
    """Return the lists of some of the queries."""
    parts = [lists.of(query, query + 1).classes for query in queries]
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    return ClassLists(offsets, np.concatenate(parts))


class Search:
    """The search for the best classes of one query.

    Args:
        scores: (R, B) float32.
        lookup: where the classes are in `scores`; its partitions can list buckets.
        k: how many classes.
        combiner: whose reduction to apply.
        hidden: one list: the ascending classes that must not be found.
        pool: threads that share this search; None: the calling one alone.
    """

    def __init__(
        self,
        scores: Floats,
        lookup: BucketLookup,
        k: int,
        combiner: Combiner,
        hidden: ClassLists,
        pool: Pool | None = None,
    ) -> None:
        self.ids: Ids = np.empty(0, np.int64)
        """The best classes so far, best first."""
        self.found: Floats = np.empty(0, np.float32)
        """Their reduced scores."""
        self.looked_at = 0
        """Buckets."""
        self._k = min(k, lookup.classes)
        self._combiner = combiner
        self._partitions = lookup.partitions[: len(scores)]
        self._hidden = hidden.classes
        self._pool = pool
        self._lock = threading.Lock()
        self._bar = -np.inf
        self._stored = lookup.stored
        worlds = len(scores)
        self._scores = np.ascontiguousarray(scores)
        self._bins = np.empty(scores.shape, np.int16)
        """The bin of every bucket."""
        self._ranked = np.empty(scores.shape, np.int32)
        """Each world's buckets by bin."""
        self._starts = np.empty((worlds, BINS + 1), np.int64)
        self._low = np.empty((worlds, BINS + 1), np.float64)
        self._tops = np.empty(worlds, np.float64)
        for world in range(worlds):
            self._tops[world] = rank_buckets(
                self._scores[world],
                self._bins[world],
                self._ranked[world],
                self._starts[world],
                self._low[world],
            )
        largest = np.maximum(self._tops, -self._scores.min(axis=1))
        # A sum of R float32 numbers is off by less than R halves of a last place of that.
        self._slack = worlds * 2.0**-23 * float(largest.sum())
        deficits = self._tops - self._scores.mean(axis=1, dtype=np.float64)
        self._order = np.argsort(-deficits, kind="stable")
        self._most = int(LOOKED_AT * lookup.buckets)
        self._sums = combiner.reduction == "sum"
        self._values = self._scores if self._sums else np.ones_like(self._scores)
        self._highest = self._tops if self._sums else np.ones(worlds)
        # For all worlds to reach a bar, or so many that the higher of the two in the middle does.
        self._fewest = worlds if combiner.reduction == "min" else worlds - worlds // 2

    def search(self) -> bool:
        """Search, and return whether the best classes are known for sure."""
        cover = np.zeros(len(self._scores), np.int64)
        while True:
            wider = cover.copy()
            sure = self._widen(wider, max(1, GROWTH * self.looked_at))
            if not sure and (wider == cover).all():
                return False
            if not self._sums:
                self._values = (self._scores >= self._bar).astype(np.float32)
            for world in np.flatnonzero(wider > cover):
                self._look_at(int(world), int(cover[world]), int(wider[world]), cover)
                cover[world] = wider[world]
            if sure:
                return True
            if self.looked_at > self._most:
                return False

    def _widen(self, cover: NDArray[np.int64], most: int) -> bool:
        """Widen a cover by about `most` buckets; return whether it leaves no class out."""
        if len(self.found) < self._k:
            cheapest_cover(self._starts, self._low, np.inf, most, cover)
            return False
        if self._sums:
            needed = float(self._tops.sum()) - self._bar + self._slack
            return cheapest_cover(self._starts, self._low, needed, most, cover)
        worlds = np.arange(len(cover))
        # Bins whose buckets, and those of all later ones, stay below the bar.
        below = [
            int(np.searchsorted(low, top - self._bar, side="right"))
            for top, low in zip(self._tops, self._low, strict=True)
        ]
        last = np.maximum(cover, below)
        extra = self._starts[worlds, last] - self._starts[worlds, cover]
        count = 1 if self._combiner.reduction == "min" else len(cover) // 2 + 1
        fewest = np.argsort(extra, kind="stable")[:count]
        if extra[fewest].sum() > most:
            cheapest_cover(self._starts, self._low, np.inf, most, cover)
            return False
        cover[fewest] = last[fewest]
        return True

    def _look_at(self, world: int, first: int, last: int, cover: NDArray[np.int64]) -> None:
        """Sift the classes of a world's bins [first, last)."""
        starts = self._starts[world]
        buckets = self._ranked[world, starts[first] : starts[last]]
        self.looked_at += len(buckets)
        partition = self._partitions[world]
        size = max(1, CHUNK * partition.buckets // partition.classes)
        chunks = [(world, buckets[start:stop], cover) for start, stop in spans(len(buckets), size)]
        if self._pool is None:
            for chunk in chunks:
                self._sift(*chunk)
        else:
            self._pool.run(self._sift, chunks)

    def _sift(self, world: int, buckets: NDArray[np.int32], cover: NDArray[np.int64]) -> None:
        """Offer those classes of some buckets that can reach the bar."""
        classes, of = self._partitions[world].classes_in(buckets)
        if self._bar > -np.inf:
            classes = self._sifted(world, classes, of, cover)
        if len(classes):
            self._offer(classes)

    def _sifted(
        self, world: int, classes: Ids, of: NDArray[np.int32], cover: NDArray[np.int64]
    ) -> Ids:
        """Return those of a world's classes that can reach the bar.

        A sum can if the worlds that are still to be asked lift it there with their best scores;
        a minimum or median if enough worlds can still reach the bar. Counting those is adding
        up too: of ones and zeros.
        """
        least = self._bar - self._slack if self._sums else float(self._fewest)
        partial = self._values[world, of].astype(np.float64)
        others = self._order[self._order != world]
        # What the worlds give at best that are asked after each of the others.
        highest = self._highest[others]
        needed = least - (highest.sum() - highest.cumsum())
        if self._stored is not None:
            rows = self._stored, self._values, self._bins
            return classes[: sift_rows(classes, partial, *rows, cover, others, needed)]
        for other, wanted in zip(others, needed, strict=True):
            if len(classes):
                buckets = self._partitions[other].buckets_of(classes)
                against = self._values[other], self._bins[other], cover[other]
                kept = sift(classes, partial, buckets, *against, wanted)
                classes, partial = classes[:kept], partial[:kept]
        return classes

    def _offer(self, classes: Ids) -> None:
        """Score classes exactly, and keep the best."""
        reduced = scored(self._scores, self._partitions, classes, self._combiner)
        place = np.searchsorted(self._hidden, classes)
        place[place == len(self._hidden)] = 0
        allowed = self._hidden[place] != classes if len(self._hidden) else np.full(len(place), True)
        with self._lock:
            allowed &= reduced >= self._bar
            ids = np.concatenate([self.ids, classes[allowed]])
            found = np.concatenate([self.found, reduced[allowed]])
            # Two worlds may show the same class.
            ids, first = np.unique(ids, return_index=True)
            found = found[first]
            best = np.lexsort((ids, -found))[: self._k]
            self.ids, self.found = ids[best], found[best]
            if len(best) == self._k:
                self._bar = float(self.found[-1])
