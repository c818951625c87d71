"""The best classes of one query found so far, and how better ones are looked for in buckets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.cover import best_buckets
from orchestrator.ensemble.lookup import BucketLookup, Rows
from orchestrator.ensemble.naming import add_gains, name_classes
from orchestrator.ensemble.retrieval import (
    ClassLists,
    Floats,
    Ids,
    finished,
    prepared,
    scored,
)
from orchestrator.ensemble.scan import sift
from orchestrator.ensemble.sieve import Bounds, Sieve
from workers.threads import Pool, share, spans

CHUNK = 1 << 14
"""Classes that a task names or sifts."""
FIRST = 64
"""Classes that are scored before the others of a look into buckets, unless more are wanted."""
PART = 1 << 18
"""Names that are sorted together, about."""
NOTHING: Ids = np.empty(0, np.int64)
_NOT_STORED: Rows = np.empty((0, 0), np.uint16)


class Places(NamedTuple):
    """Buckets of several worlds."""

    worlds: NDArray[np.int32]
    """(n,) the world of each."""
    buckets: NDArray[np.int32]
    """(n,) its number."""


def search_each(
    scores: Floats,
    lookup: BucketLookup,
    k: int,
    combiner: Combiner,
    pool: Pool,
    leave_out: ClassLists | None,
    search: Callable[[Top], bool],
) -> tuple[Ids, Floats, Floats]:
    """Search for the best classes of each query.

    Args:
        scores: as for `full`, as the others.
        lookup: likewise; `can_search` is true of it.
        k: likewise.
        combiner: likewise.
        pool: threads; one query is shared out among them, several are dealt out to them.
        leave_out: likewise.
        search: what looks into buckets, and returns whether that was enough.

    Returns:
        Class ids and scores as `full` returns them, and (n,) float32 reduced scores that k classes
        are known to reach of a query for which it was not enough; NaN where it was.

    Raises:
        DataError: if `scores`, `k` or a list does not fit the lookup.
    """
    hidden, ids, found = prepared(scores, lookup, k, leave_out)
    queries = scores.shape[1]
    floors = np.full(queries, np.nan, np.float32)
    threads = pool if queries == 1 else None

    def each(query: int) -> None:
        mine = np.ascontiguousarray(scores[:, query])
        top = Top(mine, lookup, k, combiner, hidden.of(query, query + 1).classes, threads)
        if not search(top):
            floors[query] = top.bar
        ids[query, : len(top.ids)], found[query, : len(top.ids)] = top.ids, top.found

    share(pool, each, [(query,) for query in range(queries)])
    return *finished(ids, found, lookup, len(scores), combiner), floors


def can_search(lookup: BucketLookup) -> bool:
    """Return whether partitions list the classes of a bucket, and words hold their names."""
    places = len(lookup.partitions) * lookup.buckets
    fits = (lookup.classes - 1).bit_length() + places.bit_length() <= 64
    # Beyond that, floats would not tell the parts of all classes apart.
    return lookup.invertible and lookup.packed is not None and fits and lookup.classes <= 1 << 50


class Top:
    """The best classes of one query, of those in the buckets that were looked into.

    Args:
        scores: (R, B) float32.
        lookup: where the classes are in `scores`; `can_search` is true of it.
        k: how many classes.
        combiner: whose reduction to apply.
        hidden: ascending classes that must not be found, if there are any.
        pool: threads that share the work; None: the calling one alone.
    """

    def __init__(
        self,
        scores: Floats,
        lookup: BucketLookup,
        k: int,
        combiner: Combiner,
        hidden: Ids | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.ids: Ids = np.empty(0, np.int64)
        """The best classes so far, best first."""
        self.found: Floats = np.empty(0, np.float32)
        """Their reduced scores."""
        self.looked_at = 0
        """Buckets."""
        self.bar = -np.inf
        """What k classes are known to reach."""
        self.scores = scores
        """(R, B)."""
        self.bounds = Bounds.of(scores)
        """Of these."""
        self.combiner = combiner
        self.sums = combiner.reduction == "sum"
        """Whether its reduction is a sum."""
        self.pool = pool
        self.k = min(k, lookup.classes)
        """How many classes there will be."""
        self.lookup = lookup
        """Where the classes are."""
        assert lookup.packed is not None
        self._permutations = lookup.packed
        self._rows = _NOT_STORED if lookup.stored is None else lookup.stored
        self._hidden = NOTHING if hidden is None else hidden
        self._lock = threading.Lock()

    @property
    def complete(self) -> bool:
        """Whether k classes were found."""
        return len(self.ids) == self.k

    def best_buckets(self, count: int) -> tuple[Places, NDArray[np.float64]]:
        """Return so many best buckets of each world, and what is between its best and the others.

        Args:
            count: m.

        Returns:
            What `look_into` takes.
        """
        parts = [best_buckets(mine, count).astype(np.int32) for mine in self.scores]
        worlds = np.repeat(np.arange(len(parts), dtype=np.int32), count)
        last = [mine[part].min() for mine, part in zip(self.scores, parts, strict=True)]
        return Places(worlds, np.concatenate(parts)), self.bounds.tops - last

    def look_into(self, places: Places, beyond: NDArray[np.float64]) -> None:
        """Find the best classes of some buckets.

        A sum is bounded by what is known once these are named: a class that a world does not name
        has a deficit there of at least what its other buckets have. Classes that reach the bar by
        that are asked in all worlds, until they do not reach it any more.

        Args:
            places: the buckets.
            beyond: (R,) the least deficit of each world's other buckets, but for those that were
                looked into before.
        """
        if not len(places.buckets):
            return
        self.looked_at += len(places.buckets)
        made, shift = self._permutations, len(places.buckets).bit_length()
        how = made.classes, made.bits, made.low_bits, made.keys
        each = -(-made.classes // made.buckets)
        tasks = spans(len(places.buckets), max(1, CHUNK // each))
        parts = 1 if self.pool is None else min(len(tasks), self.pool.threads)
        parts = max(parts, len(places.buckets) * each // PART)
        named = [(np.empty(0, np.uint64), np.empty(0, np.int64))] * len(tasks)

        def name(task: int) -> None:
            start, stop = tasks[task]
            words, ends = np.empty(each * (stop - start), np.uint64), np.empty(parts + 1, np.int64)
            worlds, buckets = places.worlds[start:stop], places.buckets[start:stop]
            name_classes(worlds, buckets, made.buckets, *how, start, shift, parts, words, ends)
            named[task] = words, ends

        share(self.pool, name, [(task,) for task in range(len(tasks))])
        gains = self._gains(places, beyond)
        highest = float((self.bounds.tops - beyond).sum()) + self.bounds.slack
        found = [(np.empty(0, np.uint64), np.empty(0))] * parts

        def gather(part: int) -> None:
            words = np.concatenate([words[ends[part] : ends[part + 1]] for words, ends in named])
            words.sort()
            classes, totals = np.empty_like(words), np.empty(len(words))
            count = add_gains(words, shift, gains, classes, totals)
            classes, totals = classes[:count], totals[:count]
            if len(self._hidden):
                shown = ~_among(classes.view(np.int64), self._hidden)
                classes, totals = classes[shown], totals[shown]
            # What gains most is likely among the best: scored before the others are looked at.
            first = classes
            if len(classes) > (few := max(FIRST, 2 * self.k)):
                first = np.sort(classes[np.argpartition(totals, -few)[-few:]])
            self._offer(first.view(np.int64))
            if self.sums:
                passes = totals >= self.bar - highest
                classes, totals = classes[passes], totals[passes]
            found[part] = classes, totals

        share(self.pool, gather, [(part,) for part in range(parts)])
        named.clear()
        if self.bar == -np.inf:
            # There are so few that all were offered.
            return
        sieve = Sieve(self.scores, self.bounds, self.combiner, self.bar)
        left = [
            (classes[start:stop], totals[start:stop])
            for classes, totals in found
            for start, stop in spans(len(classes), CHUNK)
        ]

        def ask(some: int) -> None:
            classes, totals = left[some]
            if self.sums:
                classes = classes[totals >= self.bar - highest]
            limit = sieve.limit(self.bar)
            kept = sift(classes, *how, self._rows, sieve.steps, limit, sieve.order)
            if kept:
                self._offer(classes[:kept].view(np.int64))

        share(self.pool, ask, [(some,) for some in range(len(left))])

    def _gains(self, places: Places, beyond: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return by how much a class's bound rises with each of the buckets that name it."""
        if not self.sums:
            return np.ones(len(places.buckets))
        scores = self.scores[places.worlds, places.buckets].astype(np.float64)
        return scores - (self.bounds.tops - beyond)[places.worlds]

    def _offer(self, classes: Ids) -> None:
        """Score classes, none of them hidden, and keep the best."""
        reduced = scored(self.scores, self.lookup, classes, self.combiner)
        allowed = reduced >= self.bar
        classes, reduced = classes[allowed], reduced[allowed]
        with self._lock:
            ids = np.concatenate([self.ids, classes])
            found = np.concatenate([self.found, reduced])
            # A class may be offered twice: first, as one that gains much.
            ids, first = np.unique(ids, return_index=True)
            found = found[first]
            best = np.lexsort((ids, -found))[: self.k]
            self.ids, self.found = ids[best], found[best]
            if len(best) == self.k:
                self.bar = float(self.found[-1])


def _among(ids: Ids, ascending: Ids) -> NDArray[np.bool_]:
    """Return which ids are among some that ascend, of which there is one at least."""
    places = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    among: NDArray[np.bool_] = ascending[places] == ids
    return among
