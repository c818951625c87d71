"""The best classes of a query among those that its worlds name: quick, and nearly always right.

Each world names the classes of its m best buckets, and the best of these are found. It is not asked
how many worlds name a class (t of them, as is usual): a class is asked world by world until it
is out, which takes less time than to count, and loses none.
"""

from __future__ import annotations

from orchestrator.ensemble.combiners import Combiner
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.retrieval import ClassLists, Floats, Ids, full
from orchestrator.ensemble.top import Top, can_search, search_each
from workers.errors import DataError
from workers.threads import Pool

BUCKETS = 16
"""m, unless another number is asked for."""


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
    """Return the k best of the classes that the worlds name, with the scores of `full`.

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
    if keep_to is not None or not can_search(lookup):
        return full(scores, lookup, k, combiner, pool, leave_out=leave_out, keep_to=keep_to)

    def search(top: Top) -> bool:
        few = min(buckets, lookup.buckets)
        top.look_into(*top.best_buckets(few))
        while not top.complete and few < lookup.buckets:
            few = min(2 * few, lookup.buckets)
            top.look_into(*top.best_buckets(few))
        return True

    ids, found, _ = search_each(scores, lookup, k, combiner, pool, leave_out, search)
    return ids, found
