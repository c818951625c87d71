"""What is measured of one ensemble."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine.steps import best
from benchmarks.peers.clock import latency
from benchmarks.retrieval.published import GatherLoop
from benchmarks.writing import QUICK
from orchestrator.ensemble.candidates import candidates
from orchestrator.ensemble.combiners import combiner
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.pruned import pruned, search
from orchestrator.ensemble.retrieval import ClassLists, brute_force, full
from orchestrator.ensemble.top import Top
from workers.threads import Pool, spans

K = 10
"""Classes a query wants."""
COMBINERS = ("mean", "log")
ASKED = 60 if QUICK else 210
"""Queries that are asked one at a time of what is quick."""
MANY = 20_000_000
"""Classes beyond which fewer queries are asked."""
FULL = 12 if QUICK else 20
"""Queries that are asked one at a time of `full`."""
BATCH = 64
ENOUGH = 0.999
"""Recall from which on `candidates` is not asked for more."""
NAMED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Buckets of each world for `candidates`."""
MOST_SCORES = 18 << 30
"""Bytes that the published loop, and brute force, may take."""
FEWEST = 10
"""Queries that a time is told of."""
CHECKED = 1
"""Queries that are compared with brute force."""
_READ = 1 << 28
"""Numbers that are read to tell how fast that is."""

Scores = NDArray[np.float32]
Found = dict[str, Any]
Answers = tuple[NDArray[np.int64], NDArray[np.float32]]


def asked(lookup: BucketLookup) -> int:
    """Return how many queries are asked one at a time of what is quick."""
    return ASKED if lookup.classes <= MANY else min(ASKED, 60)


def one_by_one(scores: Scores, name: str, count: int) -> list[Scores]:
    """Return the first queries' scores, (R, 1, B) each, as a combiner takes them."""
    values = [np.ascontiguousarray(scores[:, [i]]) for i in range(min(count, scores.shape[1]))]
    return [combiner(name).transform(one) for one in values]


def single(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> Found:
    """Time one query after the other, pruned and in full, and say how much was looked at."""
    chosen, values = combiner(name), one_by_one(scores, name, asked(lookup))
    answers: list[Answers] = []
    times = {
        "full": latency(
            lambda one: answers.append(full(one, lookup, K, chosen, pool)), values[:FULL]
        ),
        "pruned": latency(lambda one: pruned(one, lookup, K, chosen, pool), values),
    }
    for one, wanted in zip(values, answers, strict=False):
        if not same(pruned(one, lookup, K, chosen, pool), wanted):
            raise SystemExit(f"{name}: expected the answers of full from pruned, found others")
    looked, sure = [], 0
    for one in values:
        top = Top(one[:, 0], lookup, K, chosen, pool=pool)
        sure += search(top)
        looked.append(top.looked_at / lookup.buckets)
    return {
        **times,
        "full_over_pruned": round(times["full"]["p50_ms"] / times["pruned"]["p50_ms"], 2),
        "looked_at": {str(q): round(float(np.percentile(looked, q)), 5) for q in (50, 90, 99)},
        "left_to_full": round(1 - sure / len(values), 4),
    }


def same(found: Answers, wanted: Answers) -> bool:
    """Return whether classes and scores are the same to the last bit."""
    return np.array_equal(found[0], wanted[0]) and np.array_equal(found[1], wanted[1])


def computed(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> Found:
    """Time the pruned search where buckets are computed for each class that is looked at.

    Of queries that it does not leave to `full`.
    """
    chosen, values = combiner(name), one_by_one(scores, name, asked(lookup))

    def pruned_alone(one: Scores) -> bool:
        return search(Top(one[:, 0], lookup, K, chosen, pool=pool))

    sure = [one for one in values if pruned_alone(one)]
    return {"queries": len(sure), **(latency(pruned_alone, sure) if len(sure) > 2 * FEWEST else {})}


def read_rate(pool: Pool) -> float:
    """Return the bytes a second at which all threads read memory."""
    numbers = np.ones(_READ, np.float32)
    maxima: list[float] = []

    def work(start: int, stop: int) -> None:
        maxima.append(float(numbers[start:stop].max()))

    return 4 * _READ / best(lambda: pool.run(work, spans(_READ, 1 << 22)))


def checked(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> Found:
    """Compare pruned, full and brute force on a few queries, with and without lists.

    Brute force holds R scores and buckets for each class: only if `MOST_SCORES` allows it.
    """
    chosen = combiner(name)
    held = 8 * lookup.classes * len(scores)
    if held > MOST_SCORES:
        return {"queries": 0, "why": f"brute force would hold {held:,} bytes"}
    rng = np.random.default_rng(0)
    for one in one_by_one(scores, name, CHECKED):
        first, _ = full(one, lookup, K, chosen, pool)
        others = rng.integers(0, lookup.classes, 1000)
        # The best classes are among those that must not be given.
        out = np.concatenate([first[0, ::2], others])
        for hidden in (None, ClassLists(np.array([0, len(out)]), out)):
            wanted = brute_force(one, lookup.partitions, K, chosen, leave_out=hidden)
            for find in (full, pruned):
                found = find(one, lookup, K, chosen, pool, leave_out=hidden)
                if not same(found, wanted):
                    raise SystemExit(f"{name}: expected the answers of brute force, found others")
    return {"queries": CHECKED, "equal": True}


def batch(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> Found:
    """Time a batch in full and by the published loop, if that fits into memory."""
    chosen = combiner(name)
    values = chosen.transform(np.ascontiguousarray(scores[:, :BATCH]))
    began = time.perf_counter()
    full(values, lookup, K, chosen, pool)
    ours = time.perf_counter() - began
    found: Found = {"full_ms_a_query": round(1000 * ours / BATCH, 3)}
    # Its tables, its scores, and those of the world that it adds.
    needed = lookup.classes * (8 * len(values) + 2 * 4 * BATCH)
    if needed > MOST_SCORES:
        return {**found, "published_bytes": needed}
    loop = GatherLoop(list(lookup.partitions))
    began = time.perf_counter()
    loop.best(values, K)
    theirs = time.perf_counter() - began
    return {
        **found,
        "published_bytes": needed,
        "published_ms_a_query": round(1000 * theirs / BATCH, 3),
        "ratio": round(theirs / ours, 2),
    }


def near(scores: Scores, lookup: BucketLookup, pool: Pool, name: str) -> dict[str, Found]:
    """Return recall of the exact best and latency of `candidates`, by buckets of each world."""
    chosen = combiner(name)
    values = one_by_one(scores, name, asked(lookup) // 2)
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
        recall = float(np.mean(hits)) / K
        found[str(buckets)] = {**times, "recall": round(recall, 4)}
        if recall >= ENOUGH:
            break
    return found
