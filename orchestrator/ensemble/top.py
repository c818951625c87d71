"""The best classes of one query found so far, and how better ones are looked for in buckets."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.cover import Numbers, best_buckets, runs
from orchestrator.ensemble.lookup import BucketLookup, Rows
from orchestrator.ensemble.retrieval import Floats, Ids, scored
from orchestrator.ensemble.scan import sift
from orchestrator.ensemble.sieve import Bounds, Sieve
from workers.threads import Pool, share, spans

CHUNK = 1 << 14
"""Classes that a task sifts."""
ENOUGH = 1 << 12
"""Classes that are scored for the first bar, unless more are wanted."""
_NOT_STORED: Rows = np.empty((0, 0), np.uint16)


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
        self._sieve: Sieve | None = None
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether k classes were found."""
        return len(self.ids) == self.k

    def begin(self, buckets: int) -> None:
        """Score what most worlds name, so that there is a bar: classes in their best buckets.

        Args:
            buckets: best ones of each world.
        """
        partitions = self._lookup.partitions[: len(self.scores)]
        named: list[Numbers] = [np.empty(0, np.int64)] * len(partitions)
        # Half as many bytes to sort, if that will do.
        kind = np.uint32 if self._lookup.classes <= 1 << 32 else np.int64

        def name(world: int) -> None:
            chosen = best_buckets(self.scores[world], buckets).astype(np.int32)
            named[world] = partitions[world].classes_in(chosen)[0].astype(kind)

        share(self.pool, name, [(world,) for world in range(len(partitions))])
        everything = np.concatenate(named)
        everything.sort()
        classes, times = runs(everything)
        # How many classes are named at least t times, for t from R down to 1.
        left = np.cumsum(np.bincount(times, minlength=len(partitions) + 1)[:0:-1])
        least = len(partitions) - int(np.searchsorted(left, self.k + len(self._hidden)))
        chosen = classes[times >= max(1, least)]
        self._offer(chosen[: max(ENOUGH, 2 * self.k)].astype(np.int64))

    def best_buckets(self, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the worlds and the numbers of so many best buckets of each world."""
        parts = [best_buckets(mine, count).astype(np.int32) for mine in self.scores]
        return np.repeat(np.arange(len(parts), dtype=np.int32), count), np.concatenate(parts)

    def look_into(self, worlds: NDArray[np.int32], buckets: NDArray[np.int32]) -> None:
        """Find the best of the classes of some buckets.

        Args:
            worlds: (n,) the worlds of the buckets.
            buckets: (n,) the buckets.
        """
        self.looked_at += len(buckets)
        if self.bar > -np.inf:
            self._sieve = Sieve(self.scores, self.bounds, self.combiner, self.bar)
        each = -(-self._partitions.classes // self._partitions.buckets)

        def look(start: int, stop: int) -> None:
            self._sift(worlds[start:stop], buckets[start:stop], each * (stop - start))

        share(self.pool, look, spans(len(buckets), max(1, CHUNK // each)))

    def _sift(self, worlds: NDArray[np.int32], buckets: NDArray[np.int32], most: int) -> None:
        """Offer those classes of some buckets, `most` at most, that can reach the bar."""
        made, out = self._partitions, np.empty(most, np.int64)
        how = made.classes, made.bits, made.low_bits, made.keys, self._rows
        if self._sieve is None:
            sieve = np.empty((0, made.buckets), np.uint8), 0, np.empty(0, np.int64)
        else:
            sieve = self._sieve.steps, self._sieve.limit(self.bar), self._sieve.order
        kept = sift(worlds, buckets, *how, *sieve, out)
        if kept:
            self._offer(out[:kept])

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
