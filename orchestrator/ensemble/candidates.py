"""The best classes of a query among those that several worlds name: quick, and nearly always right.

Each world names the classes of its m best buckets. Classes that at least t
worlds name are scored in all worlds. t begins at R and is relaxed until there
are enough of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.cover import Numbers, best_buckets, runs
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
from workers.errors import DataError
from workers.partition import Partition
from workers.threads import Pool, share

BUCKETS = 16
"""m, unless another number is asked for."""
ENOUGH = 2000
"""Classes that are scored in all worlds, at least, if so many are named."""


def candidates(
    scores: Floats,
    lookup: BucketLookup,
    k: int,
    combiner: Combiner,
    pool: Pool,
    *,
    buckets: int = BUCKETS,
    leave_out: ClassLists | None = None,
    keep_to: ClassLists | None = None,
) -> tuple[Ids, Floats]:
    """Return the k best of the classes that enough worlds name, with the scores of `full`.

    Where partitions cannot list the classes of a bucket, or only the classes of `keep_to`
    matter, it is `full` that answers.

    Args:
        scores: (R, n, B) float32, finite, as for `full`.
        lookup: where the classes are in `scores`.
        k: how many classes.
        combiner: whose reduction and finish to apply.
        pool: threads to use.
        buckets: m, of each world; doubled for a query until k classes are named.
        leave_out: classes that each query must not be given.
        keep_to: the only classes that each query may be given, an empty list meaning none.

    Returns:
        Class ids (n, k) int64 and finished scores (n, k) float32, best first, padded with -1
        and -inf where fewer than k classes are allowed.

    Raises:
        DataError: if `scores`, `k`, `buckets` or a list does not fit the lookup.
    """
    if buckets < 1:
        raise DataError(f"buckets: expected at least 1 of each world, found {buckets}")
    if keep_to is not None or not lookup.invertible:
        return full(scores, lookup, k, combiner, pool, leave_out=leave_out, keep_to=keep_to)
    hidden, ids, found = prepared(scores, lookup, k, leave_out)
    queries = scores.shape[1]
    # One query is shared out among the threads, several are dealt out to them.
    threads = pool if queries == 1 else None
    partitions = lookup.partitions[: len(scores)]

    def search(query: int) -> None:
        mine = np.ascontiguousarray(scores[:, query])
        excluded = hidden.of(query, query + 1).classes
        few = min(buckets, lookup.buckets)
        named = _named(mine, partitions, few, excluded, k, threads)
        while len(named) < k and few < lookup.buckets:
            few = min(2 * few, lookup.buckets)
            named = _named(mine, partitions, few, excluded, k, threads)
        best = scored(mine, lookup, named, combiner, threads)
        order = np.lexsort((named, -best))[:k]
        ids[query, : len(order)], found[query, : len(order)] = named[order], best[order]

    share(pool, search, [(query,) for query in range(queries)])
    return finished(ids, found, lookup, len(scores), combiner)


def _named(
    scores: Floats,
    partitions: Sequence[Partition],
    buckets: int,
    excluded: Ids,
    k: int,
    pool: Pool | None,
) -> Ids:
    """Return the classes that most worlds name, ascending; `ENOUGH` and k at least, if named."""
    named: list[Numbers] = [np.empty(0, np.int64)] * len(scores)

    def name(world: int) -> None:
        chosen = best_buckets(scores[world], buckets).astype(np.int32)
        named[world] = partitions[world].classes_in(chosen)[0]

    share(pool, name, [(world,) for world in range(len(scores))])
    everything: Numbers = np.concatenate(named)
    if partitions[0].classes <= 1 << 32:
        # Half as many bytes to sort.
        everything = everything.astype(np.uint32)
    everything.sort()
    classes, times = runs(everything)
    if len(excluded):
        allowed = ~np.isin(classes, excluded)
        classes, times = classes[allowed], times[allowed]
    # How many classes are named at least t times, for t from R down to 1.
    left = np.cumsum(np.bincount(times, minlength=len(scores) + 1)[:0:-1])
    least = len(scores) - int(np.searchsorted(left, max(ENOUGH, k)))
    return classes[times >= max(1, least)].astype(np.int64)
