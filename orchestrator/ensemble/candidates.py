"""The best classes of a query among those that several worlds name: quick, and nearly always right.

Each world names the classes of its m best buckets. Classes that at least t
worlds name are scored in all worlds. t begins at R and is relaxed until there
are enough of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.cover import BINS, count_rows, rank_buckets
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
from workers.threads import Pool, spans

BUCKETS = 16
"""m, unless another number is asked for."""
ENOUGH = 2000
"""Classes that are scored in all worlds, at least, if so many are named."""
CHUNK = 1 << 14
"""Classes that are counted at a time."""


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
        mine = scores[:, query]
        excluded = hidden.of(query, query + 1).classes
        few = min(buckets, lookup.buckets)
        named = _named(mine, lookup, few, excluded, k, threads)
        while len(named) < k and few < lookup.buckets:
            few = min(2 * few, lookup.buckets)
            named = _named(mine, lookup, few, excluded, k, threads)
        best = scored(mine, partitions, named, combiner)
        order = np.lexsort((named, -best))[:k]
        ids[query, : len(order)], found[query, : len(order)] = named[order], best[order]

    if queries == 1:
        search(0)
    else:
        pool.run(search, [(query,) for query in range(queries)])
    return finished(ids, found, lookup, len(scores), combiner)


def _named(
    scores: Floats, lookup: BucketLookup, buckets: int, excluded: Ids, k: int, pool: Pool | None
) -> Ids:
    """Return the classes that most worlds name, ascending; `ENOUGH` and k at least, if named.

    A class that at least t of R worlds name is named by one of any R - t + 1 of them. So the
    classes of one world after the other are counted, and t falls with each, until enough are left.
    """
    chosen = [np.sort(best_buckets(values, buckets)) for values in scores]
    flags = np.zeros(scores.shape, np.uint8)
    for mine, few in zip(flags, chosen, strict=True):
        mine[few] = 1
    found: list[tuple[Ids, Ids]] = []
    left = np.zeros(len(scores) + 1, np.int64)
    least = len(scores)
    for world, few in enumerate(chosen):
        least = len(scores) - world
        for classes, counts in _counted(lookup, world, few, flags, pool):
            if len(excluded):
                allowed = ~np.isin(classes, excluded)
                classes, counts = classes[allowed], counts[allowed]
            found.append((classes, counts))
            left += np.bincount(counts, minlength=len(left))
        if left[least:].sum() >= max(ENOUGH, k):
            break
    return np.sort(np.concatenate([classes[counts >= least] for classes, counts in found]))


def _counted(
    lookup: BucketLookup,
    world: int,
    buckets: NDArray[np.int32],
    flags: NDArray[np.uint8],
    pool: Pool | None,
) -> list[tuple[Ids, Ids]]:
    """Return the classes that a world names and no earlier one does, and how many worlds do."""
    partition = lookup.partitions[world]
    found: list[tuple[Ids, Ids]] = []

    def count(start: int, stop: int) -> None:
        classes, _ = partition.classes_in(buckets[start:stop])
        counts = np.ones(len(classes), np.int64)
        if lookup.stored is not None:
            kept = count_rows(classes, world, lookup.stored, flags, counts)
            found.append((classes[:kept], counts[:kept]))
            return
        for other in range(len(flags)):
            if other != world:
                named = flags[other, lookup.partitions[other].buckets_of(classes)]
                if other > world:
                    counts += named
                else:
                    classes, counts = classes[named == 0], counts[named == 0]
        found.append((classes, counts))

    size = max(1, CHUNK * partition.buckets // partition.classes)
    chunks = spans(len(buckets), size)
    if pool is None:
        for chunk in chunks:
            count(*chunk)
    else:
        pool.run(count, chunks)
    return found


def best_buckets(scores: Floats, count: int) -> NDArray[np.int32]:
    """Return a world's best buckets, best first; of equal ones the lower number.

    Args:
        scores: (B,) float32.
        count: how many, at most all.
    """
    scores = np.ascontiguousarray(scores)
    bins, order = np.empty(len(scores), np.int16), np.empty(len(scores), np.int32)
    starts, low = np.empty(BINS + 1, np.int64), np.empty(BINS + 1, np.float64)
    rank_buckets(scores, bins, order, starts, low)
    most = order[: starts[min(BINS, int(np.searchsorted(starts, count)))]]
    return most[np.lexsort((most, -scores[most]))][:count]
