"""The best classes of one query found so far, and how better ones are looked for in buckets."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.cover import best_buckets
from orchestrator.ensemble.lookup import BucketLookup, Rows
from orchestrator.ensemble.naming import add_gains, name_classes
from orchestrator.ensemble.retrieval import Floats, Ids, scored
from orchestrator.ensemble.scan import sift
from orchestrator.ensemble.sieve import Bounds, Sieve
from workers.threads import Pool, share, spans

CHUNK = 1 << 14
"""Classes that a task names or sifts."""
FIRST = 64
"""Classes that are scored before the others of a look into buckets, unless more are wanted."""
_NOT_STORED: Rows = np.empty((0, 0), np.uint16)


class Places(NamedTuple):
    """Buckets of several worlds."""

    worlds: NDArray[np.int32]
    """(n,) the world of each."""
    buckets: NDArray[np.int32]
    """(n,) its number."""


class Top:
    """The best classes of one query, of those in the buckets that were looked into.

    Args:
        scores: (R, B) float32.
        lookup: where the classes are in `scores`; its partitions can list buckets.
        k: how many classes.
        combiner: whose reduction to apply.
        hidden: ascending classes that must not be found.
        pool: threads that share the work; None: the calling one alone.
    """

    def __init__(
        self,
        scores: Floats,
        lookup: BucketLookup,
        k: int,
        combiner: Combiner,
        hidden: Ids,
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
        self.bounds = Bounds.of(scores)
        self.combiner = combiner
        self.pool = pool
        self.k = min(k, lookup.classes)
        self._lookup = lookup
        assert lookup.packed is not None
        self._partitions = lookup.packed
        self._rows = _NOT_STORED if lookup.stored is None else lookup.stored
        self._hidden = hidden
        self.sums = combiner.reduction == "sum"
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
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
        made, shift = self._partitions, max(1, (len(places.buckets) - 1).bit_length())
        how = made.classes, made.bits, made.low_bits, made.keys
        each = -(-made.classes // made.buckets)
        tasks = spans(len(places.buckets), max(1, CHUNK // each))
        parts = self.pool.threads if self.pool and len(tasks) > 1 else 1
        named = [(np.empty(0, np.uint64), np.empty(0, np.int64))] * len(tasks)

        def name(task: int) -> None:
            start, stop = tasks[task]
            words, ends = np.empty(each * (stop - start), np.uint64), np.empty(parts + 1, np.int64)
            worlds, buckets = places.worlds[start:stop], places.buckets[start:stop]
            name_classes(worlds, buckets, made.buckets, *how, start, shift, parts, words, ends)
            named[task] = words, ends

        share(self.pool, name, [(task,) for task in range(len(tasks))])
        gains = self._gains(places, beyond)
        found = [(np.empty(0, np.uint64), np.empty(0))] * parts

        def gather(part: int) -> None:
            mine = [words[ends[part] : ends[part + 1]] for words, ends in named]
            words = np.concatenate(mine)
            words.sort()
            classes, totals = np.empty_like(words), np.empty(len(words))
            count = add_gains(words, shift, gains, classes, totals)
            found[part] = classes[:count], totals[:count]
            # What gains most is likely among the best: without a look at the others.
            some = min(count, len(self._hidden) + max(FIRST, 2 * self.k))
            best = np.arange(count)
            if some < count:
                best = np.sort(np.argpartition(totals[:count], count - some)[count - some :])
            self._offer(classes[best].astype(np.int64))

        share(self.pool, gather, [(part,) for part in range(parts)])
        if self.bar == -np.inf:
            # There are not even k.
            for classes, _ in found:
                self._offer(classes.astype(np.int64))
            return
        sieve = Sieve(self.scores, self.bounds, self.combiner, self.bar)
        some = [
            (classes[start:stop], totals[start:stop])
            for classes, totals in found
            for start, stop in spans(len(classes), CHUNK)
        ]
        lowest = float((self.bounds.tops - beyond).sum()) + self.bounds.slack

        def sifted(part: int) -> None:
            classes, totals = some[part]
            if self.sums:
                classes = classes[totals >= self.bar - lowest]
            limit = sieve.limit(self.bar)
            kept = sift(classes, *how, self._rows, sieve.steps, limit, sieve.order)
            if kept:
                self._offer(classes[:kept].astype(np.int64))

        share(self.pool, sifted, [(part,) for part in range(len(some))])

    def _gains(self, places: Places, beyond: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return by how much a class's bound rises with each of the buckets that name it."""
        if not self.sums:
            return np.ones(len(places.buckets))
        scores = self.scores[places.worlds, places.buckets].astype(np.float64)
        return scores - (self.bounds.tops - beyond)[places.worlds]

    def _offer(self, classes: Ids) -> None:
        """Score classes exactly, and keep the best."""
        reduced = scored(self.scores, self._lookup, classes, self.combiner)
        allowed = reduced >= self.bar
        if len(self._hidden):
            allowed &= ~np.isin(classes, self._hidden)
        classes, reduced = classes[allowed], reduced[allowed]
        with self._lock:
            ids = np.concatenate([self.ids, classes])
            found = np.concatenate([self.found, reduced])
            # Two worlds may show the same class.
            ids, first = np.unique(ids, return_index=True)
            found = found[first]
            best = np.lexsort((ids, -found))[: self.k]
            self.ids, self.found = ids[best], found[best]
            if len(best) == self.k:
                self.bar = float(self.found[-1])
