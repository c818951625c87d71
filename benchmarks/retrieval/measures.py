"""What is measured of one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine.steps import best, copy_rate
from benchmarks.peers.clock import latency
from benchmarks.retrieval.published import GatherLoop
from benchmarks.writing import QUICK
from orchestrator.ensemble.candidates import candidates
from orchestrator.ensemble.combiners import combiner
from orchestrator.ensemble.pruned import Search, pruned
from orchestrator.ensemble.retrieval import BucketLookup, ClassLists, full
from workers.threads import Pool

K = 10
"""Classes a query wants."""
COMBINERS = ("mean", "log")
ASKED = 60 if QUICK else 210
"""Queries that are asked one at a time of what is quick."""
FULL = 12 if QUICK else 20
"""Queries that are asked one at a time of `full`."""
BATCH = 64
NAMED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Buckets of each world for `candidates`."""
MOST_SCORES = 8 << 30
"""Bytes that the published loop may take for its scores."""

Scores = NDArray[np.float32]
Found = dict[str, Any]


def one_by_one(scores: Scores, name: str, count: int) -> list[Scores]:
    """Return the first queries' scores, (R, 1, B) each, as a combiner takes them."""
    values = [np.ascontiguousarray(scores[:, [i]]) for i in range(min(count, scores.shape[1]))]
    return [combiner(name).transform(one) for one in values]


def single(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> Found:
    """Time one query after the other, pruned and in full, and say how much was looked at."""
    chosen, values = combiner(name), one_by_one(scores, name, ASKED)
    times = {
        "pruned": latency(lambda one: pruned(one, lookup, K, chosen, pool), values),
        "full": latency(lambda one: full(one, lookup, K, chosen, pool), values[:FULL]),
    }
    if not all(same(one, lookup, pool, name) for one in values[:FULL]):
        raise SystemExit(f"{name}: expected the answers of full from pruned, found others")
    nothing = ClassLists(np.zeros(2, np.int64), np.empty(0, np.int64))
    looked, sure = [], 0
    for one in values:
        search = Search(one[:, 0], lookup, K, chosen, nothing, pool)
        sure += search.search()
        looked.append(search.looked_at / lookup.buckets)
    return {
        **times,
        "full_over_pruned": round(times["full"]["p50_ms"] / times["pruned"]["p50_ms"], 2),
        "looked_at": {str(q): round(float(np.percentile(looked, q)), 5) for q in (50, 90, 99)},
        "left_to_full": round(1 - sure / len(values), 4),
    }


def same(one: Scores, lookup: BucketLookup, pool: Pool, name: str) -> bool:
    """Return whether a query gets the same classes and scores pruned and in full."""
    ids, found = pruned(one, lookup, K, combiner(name), pool)
    wanted_ids, wanted = full(one, lookup, K, combiner(name), pool)
    return np.array_equal(ids, wanted_ids) and np.array_equal(found, wanted)


def computed(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> Found:
    """Time the pruned search where buckets are computed for each class that is looked at."""
    chosen = combiner(name)
    values = one_by_one(scores, name, FULL)
    return latency(lambda one: pruned(one, lookup, K, chosen, pool), values)


def bandwidth(lookup: BucketLookup, full_ms: float, pool: Pool) -> Found:
    """Return the bytes a second of the lookup that one query reads in full, beside a copy."""
    assert lookup.stored is not None
    rate = lookup.stored.nbytes / (full_ms / 1000)
    copied = copy_rate(pool)
    return {
        "lookup_bytes": lookup.stored.nbytes,
        "gigabytes_a_second": round(rate / 1e9, 2),
        "copy_gigabytes_a_second": round(copied / 1e9, 2),
        "share": round(rate / copied, 3),
    }


def batch(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> Found:
    """Time a batch in full and by the published loop, if that fits into memory."""
    chosen = combiner(name)
    values = chosen.transform(np.ascontiguousarray(scores[:, :BATCH]))
    ours = best(lambda: full(values, lookup, K, chosen, pool), times=3)
    found: Found = {"full_ms_a_query": round(1000 * ours / BATCH, 3)}
    needed = 2 * 4 * BATCH * lookup.classes + 8 * lookup.classes * len(values)
    if needed > MOST_SCORES:
        return {**found, "published_bytes": needed, "published": "not run: too much memory"}
    loop = GatherLoop(list(lookup.partitions))
    theirs = best(lambda: loop.best(values, K), times=3)
    return {
        **found,
        "published_bytes": needed,
        "published_ms_a_query": round(1000 * theirs / BATCH, 3),
        "ratio": round(theirs / ours, 2),
    }


def near(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> dict[str, Found]:
    """Return recall of the exact best and latency of `candidates`, by buckets of each world."""
    chosen = combiner(name)
    values = one_by_one(scores, name, ASKED)
    exact = [pruned(one, lookup, K, chosen, pool)[0][0] for one in values]
    found = {}
    for buckets in NAMED:
        if buckets * lookup.classes // lookup.buckets * len(lookup.partitions) > lookup.classes:
            break
        answers: list[Sequence[int]] = []

        def ask(one: Scores, m: int = buckets, kept: list[Sequence[int]] = answers) -> None:
            kept.append(candidates(one, lookup, K, chosen, pool, buckets=m)[0][0])

        times = latency(ask, values)
        hits = [len(set(a) & set(b)) for a, b in zip(answers, exact, strict=True)]
        found[str(buckets)] = {**times, "recall": round(float(np.mean(hits)) / K, 4)}
    return found
