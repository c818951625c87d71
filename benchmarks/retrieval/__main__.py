"""Retrieval from 10^5 to 10^8 classes.

    python -m benchmarks.retrieval [--classes 100000,49460000]

R = 32 worlds of B = 20,000 buckets, trained on a generated product search and kept in
.bench/retrieval; 10 classes wanted. Writes benchmarks/results/retrieval.json and retrieval.md; K
that are there already are not measured again unless asked for by --classes. QUICK=1 only shows
that it runs, with few worlds and classes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.retrieval import measures
from benchmarks.retrieval.opening import opened
from benchmarks.retrieval.precision import precisions
from benchmarks.retrieval.report import table
from benchmarks.retrieval.trained import TEST_ROWS, Search, probabilities, writing_rate
from benchmarks.writing import QUICK, RESULTS, write_results
from orchestrator import Ensemble
from orchestrator.ensemble.artefact import LOOKUP
from orchestrator.ensemble.lookup import BucketLookup

CLASSES = (10_000, 100_000) if QUICK else (10**5, 10**6, 10**7, 49_460_000, 10**8)
PRECISION_ROWS = {10_000: TEST_ROWS, 10**5: TEST_ROWS, 10**6: TEST_ROWS // 4}
"""Test rows that are evaluated at each precision; of more classes, none."""


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
            ordered = {key: found[key] for key in sorted(found, key=int)}
            write_results("retrieval", {"classes": ordered}, table(ordered))


def measured(classes: int) -> dict[str, Any]:
    """Return all measures of one K."""
    search = Search(classes)
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"written_rows_a_second": writing_rate(classes, Path(folder))}
    folder = search.merged()
    ensemble = Ensemble.load(folder)
    lookup, pool = ensemble.lookup, ensemble.pool
    result |= {
        "train_rows": search.rows,
        "worlds": ensemble.worlds,
        "buckets": lookup.buckets,
        "bytes": {
            "weights": sum(path.stat().st_size for path in Path(folder).glob("world-*")),
            "stored_lookup": Path(folder, LOOKUP).stat().st_size,
            "index_of_buckets": 0,
            "published_lookup": 8 * classes * ensemble.worlds,
        },
        "opening": {"cold": opened(folder, cold=True), "warm": opened(folder, cold=False)},
    }
    texts = search.queries(max(measures.ASKED, measures.BATCH))
    scores = probabilities(ensemble, texts)
    computed = BucketLookup(lookup.partitions, pool, most_bytes=0)
    result["read_bytes_a_second"] = rate = measures.read_rate(pool)
    for name in measures.COMBINERS:
        result[name] = {
            "checked": measures.checked(scores, lookup, pool, name),
            "single": measures.single(scores, lookup, pool, name),
            "computed": measures.computed(scores, computed, pool, name),
            "batch": measures.batch(scores, lookup, pool, name),
            "candidates": measures.near(scores, lookup, pool, name),
        }
        seconds = result[name]["single"]["full"]["p50_ms"] / 1000
        read = result["bytes"]["stored_lookup"] / seconds
        result[name]["full_share_of_read_rate"] = round(read / rate, 3)
        print(f"{classes:,} {name}: {json.dumps(result[name])}", flush=True)
    if classes in PRECISION_ROWS:
        result["precision"] = precisions(search, rows=PRECISION_ROWS[classes])
    return result


if __name__ == "__main__":
    main()
