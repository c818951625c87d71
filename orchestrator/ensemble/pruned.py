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
promising ones and asks again how many are enough.

Most classes of the buckets that are looked at are ruled out without a look at
their other buckets. Of a sum it is known which worlds N named the class: its
sum is at most Σ_N s_r + Σ_others (M_r - l_r), with l_r as above (the bound of
NRA, in the same paper). What passes is asked world by world, and dropped as soon
as it cannot reach the bar even if it is the best in all worlds that are still
to be asked; those that stay are scored exactly as `brute_force` does. Bounds
are sums in float64, loosened by what float32 may have rounded; a class that may
equal the bar stays, as its number may be the lower one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.cover import BINS, cheapest_cover, rank_buckets
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.retrieval import ClassLists, Floats, Ids, full
from orchestrator.ensemble.top import Places, Top, can_search, search_each
from workers.threads import Pool, share

PRUNED_FROM = 1_000_000
"""Classes from which on `exact` prunes."""
LOOKED_AT, LOOKED_AT_COMPUTED = 0.1, 0.5
"""Buckets, as a share of B, beyond which it is quicker to look at all classes: with a stored
lookup, and where buckets are computed."""
HOPE = 0.015
"""Share of these buckets after which the bar is not hoped to rise any more."""
GROWTH = 4
"""How many times the buckets looked at so far the next round may add."""


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

    Where that would be too many of them (`LOOKED_AT`), or partitions cannot list the classes of
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
    if keep_to is not None or not can_search(lookup):
        return full(scores, lookup, k, combiner, pool, leave_out=leave_out, keep_to=keep_to)
    ids, found, floors = search_each(scores, lookup, k, combiner, pool, leave_out, search)
    unsure = np.flatnonzero(~np.isnan(floors))
    if len(unsure):
        lists = None if leave_out is None else chosen(leave_out, unsure)
        some = scores if len(unsure) == len(floors) else np.ascontiguousarray(scores[:, unsure])
        ids[unsure], found[unsure] = full(
            some, lookup, k, combiner, pool, leave_out=lists, floors=floors[unsure]
        )
    return ids, found


def exact(
    scores: Floats,
    lookup: BucketLookup,
    k: int,
    combiner: Combiner,
    pool: Pool,
    *,
    leave_out: ClassLists | None = None,
    keep_to: ClassLists | None = None,
) -> tuple[Ids, Floats]:
    """Return what `full` and `pruned` return, by the one that is quicker for so many classes.

    Args: as for `pruned`.
    """
    search = pruned if lookup.classes >= PRUNED_FROM else full
    return search(scores, lookup, k, combiner, pool, leave_out=leave_out, keep_to=keep_to)


def chosen(lists: ClassLists, queries: Ids) -> ClassLists:
    """Return the lists of some of the queries."""
    parts = [lists.of(query, query + 1).classes for query in queries]
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    return ClassLists(offsets, np.concatenate(parts))


def search(top: Top) -> bool:
    """Look into buckets until the best classes of a query are known for sure.

    Returns:
        Whether they are; if not, it is quicker to look at all classes.
    """
    return _Search(top).run()


class _Search:
    """The search for the best classes of one query."""

    def __init__(self, top: Top) -> None:
        self._top = top
        worlds, buckets = top.scores.shape
        self._ranked = np.empty(top.scores.shape, np.int32)
        """Each world's buckets, best first, by bin."""
        self._starts = np.empty((worlds, BINS + 1), np.int64)
        self._low = np.empty((worlds, BINS + 1), np.float64)
        self._corner = np.zeros((worlds, BINS + 1), np.int64)
        self._bins = self._starts, self._low, self._corner
        most = LOOKED_AT_COMPUTED if top.lookup.stored is None else LOOKED_AT
        self._most = int(most * buckets)

        def rank(world: int) -> None:
            made = (array[world] for array in (self._ranked, *self._bins))
            best, worst = top.bounds.tops[world], top.bounds.bottoms[world]
            rank_buckets(top.scores[world], best, worst, self._most, *made)

        share(top.pool, rank, [(world,) for world in range(worlds)])
        # For all worlds to reach a bar, or so many that the higher of the two in the middle does.
        self._fewest = worlds if top.combiner.reduction == "min" else worlds - worlds // 2
        # Twice as many classes as are wanted should give a bar.
        self._first = -(-2 * top.k * buckets // top.lookup.classes)

    def run(self) -> bool:
        """Search, and return whether the best classes are known for sure."""
        cover = np.zeros(len(self._ranked), np.int64)
        while True:
            wider = cover.copy()
            sure = self._widen(wider)
            # Few bins may hold nearly all buckets.
            if not sure and ((wider == cover).all() or self._buckets(wider) > self._most):
                return False
            self._top.look_into(self._between(cover, wider), self._beyond(wider))
            if sure:
                return True
            if self._top.looked_at > self._most:
                return False
            cover = wider

    def _widen(self, cover: NDArray[np.int64]) -> bool:
        """Widen a cover; return whether it leaves no class out.

        It stays as it is if all that is needed is too much.
        """
        most = max(self._first, len(cover), GROWTH * self._top.looked_at)
        if not self._top.complete:
            cheapest_cover(*self._bins, np.inf, most, cover)
            return False
        whole = cover.copy()
        if self._top.sums:
            needed = float(self._top.bounds.tops.sum()) - self._top.bar + self._top.bounds.slack
            sure = cheapest_cover(*self._bins, needed, self._most, whole)
        else:
            sure = self._cover_worlds(whole)
        if sure and self._buckets(whole) - self._buckets(cover) <= most:
            cover[:] = whole
            return True
        # The bar may still rise; but not by much, once some have been looked at.
        if sure or self._top.looked_at < HOPE * self._most:
            cheapest_cover(*self._bins, np.inf, most, cover)
        return False

    def _cover_worlds(self, cover: NDArray[np.int64]) -> bool:
        """Cover all buckets that reach the bar of as many worlds as it takes."""
        worlds = np.arange(len(cover))
        # Bins whose buckets, and those of all later ones, stay below the bar.
        below = [
            int(np.searchsorted(low, top - self._top.bar, side="right"))
            for top, low in zip(self._top.bounds.tops, self._low, strict=True)
        ]
        last = np.maximum(cover, np.minimum(below, BINS))
        extra = self._starts[worlds, last] - self._starts[worlds, cover]
        count = len(cover) - self._fewest + 1
        fewest = np.argsort(extra, kind="stable")[:count]
        cover[fewest] = last[fewest]
        return self._buckets(cover) <= self._most

    def _buckets(self, cover: NDArray[np.int64]) -> int:
        return int(self._starts[np.arange(len(cover)), cover].sum())

    def _between(self, cover: NDArray[np.int64], wider: NDArray[np.int64]) -> Places:
        """Return the buckets by which a cover is widened."""
        parts = [
            self._ranked[world, self._starts[world, first] : self._starts[world, last]]
            for world, (first, last) in enumerate(zip(cover, wider, strict=True))
        ]
        worlds = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        return Places(worlds, np.concatenate(parts))

    def _beyond(self, cover: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the least deficit of each world's buckets outside a cover."""
        least: NDArray[np.float64] = self._low[np.arange(len(cover)), cover]
        # Where there are none, there is no class to be told of them.
        return np.where(np.isinf(least), self._top.bounds.tops - self._top.bounds.bottoms, least)
