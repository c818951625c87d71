"""Retrieval from 10^5 to 49.46 million classes.

    python -m benchmarks.retrieval [--classes 100000,49460000]

R = 32 worlds of B = 20,000 buckets, trained on a generated product search and kept in
.bench/retrieval; 10 classes wanted. Writes benchmarks/results/retrieval.json and retrieval.md; K
that are there already are not measured again unless asked for by --classes. QUICK=1 only shows
that it runs, with few worlds and classes.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmarks.retrieval import measures
from benchmarks.retrieval.trained import TRAIN_ROWS, WORLDS, ensemble, probabilities, queries
from benchmarks.writing import QUICK, RESULTS, markdown, write_results
from orchestrator.ensemble.retrieval import BucketLookup

CLASSES = (10_000, 100_000) if QUICK else (10**5, 10**6, 10**7, 49_460_000)
STORED = 4 << 30
"""Bytes that a stored lookup may take."""


def main() -> None:
    """Measure what is asked for, or what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", help="comma-separated; default: those not measured yet")
    asked = parser.parse_args().classes
    path = RESULTS / "retrieval.json"
    found: dict[str, Any] = {}
    if path.exists() and not QUICK:
        found = json.loads(path.read_text())["classes"]
    for classes in [int(one) for one in asked.split(",")] if asked else CLASSES:
        if asked or str(classes) not in found:
            found[str(classes)] = measured(classes)
            write_results("retrieval", {"classes": found}, table(found))


def measured(classes: int) -> dict[str, Any]:
    """Return all measures of one K."""
    opened = ensemble(classes)
    texts = queries(classes, max(measures.ASKED, measures.BATCH))
    scores = probabilities(opened, texts)
    pool = opened.pool
    partitions = opened.lookup.partitions
    computed = BucketLookup(partitions, pool, most_bytes=0)
    stored = BucketLookup(partitions, pool, most_bytes=STORED)
    result: dict[str, Any] = {"worlds": len(partitions), "buckets": stored.buckets}
    for name in measures.COMBINERS:
        one = measures.single(scores, stored, pool, name)
        result[name] = {
            "stored": one,
            "pruned_computed": measures.computed(scores, computed, pool, name),
            "batch": measures.batch(scores, stored, pool, name),
            "candidates": measures.near(scores, stored, pool, name),
            "bandwidth": measures.bandwidth(stored, one["full"]["p50_ms"], pool),
        }
        print(f"{classes:,} {name}: {json.dumps(result[name])}", flush=True)
    return result


def table(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = [
        (
            f"{int(classes):,}",
            name,
            f"{one[name]['stored']['pruned']['p50_ms']:.1f} / "
            f"{one[name]['stored']['pruned']['p99_ms']:.1f}",
            f"{one[name]['stored']['full']['p50_ms']:.1f}",
            f"{one[name]['stored']['full_over_pruned']:.1f}",
            f"{100 * one[name]['stored']['looked_at']['50']:.2f}",
            f"{100 * one[name]['stored']['left_to_full']:.1f}",
            f"{one[name]['batch']['full_ms_a_query']:.1f}",
            f"{one[name]['batch'].get('ratio', '')}",
            f"{one[name]['bandwidth']['share']:.2f}",
        )
        for classes, one in found.items()
        for name in measures.COMBINERS
    ]
    head = (
        "K",
        "combiner",
        "pruned p50 / p99 ms",
        "full p50 ms",
        "ratio",
        "% of classes looked at",
        "% left to full",
        "full in batches, ms a query",
        "published loop / full",
        "of the bandwidth",
    )
    named = [
        (f"{int(classes):,}", name, m, f"{100 * at['recall']:.1f}", at["p50_ms"], at["p99_ms"])
        for classes, one in found.items()
        for name in measures.COMBINERS
        for m, at in one[name]["candidates"].items()
    ]
    lines = [
        "# Retrieval",
        "",
        f"Made by `make bench-retrieval`: ensembles of R = {WORLDS} worlds, trained on"
        f" {TRAIN_ROWS:,} generated clicks; the {measures.K} best classes of test queries, one"
        " after the other but for the batches of 64. Times are from bucket scores to classes.",
        "",
        *markdown(head, rows),
        "",
        "## Candidates",
        "",
        *markdown(
            ("K", "combiner", "buckets a world", "% of the exact best", "p50 ms", "p99 ms"), named
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
