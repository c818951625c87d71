"""The search behind the defaults: one setting at a time, around them.

    python -m benchmarks.search [--sets tldr,api_search]

Two worlds a variation, the combiner `log`, up to 4,000 evenly spaced test rows,
P@1 / R@10 / R@100; writes benchmarks/results/search.json and search.md.
Interrupted, it goes on where it was. The findings stand beside the defaults in
`workers/config.py`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.accuracy import JOBS, RESULTS, RUNS, machine, settings
from benchmarks.datasets import BenchmarkSet, find_sets
from orchestrator import Ensemble, train
from orchestrator.ensemble import evaluate

SETS = ("tldr", "api_search", "debian_depends", "omw")
ROWS = 4_000
VARIATIONS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "activation relu": {"model.activation": "relu"},
    "input_rate 0.05": {"optimizer.input_rate": 0.05},
    "input_rate 0.1": {"optimizer.input_rate": 0.1},
    "input_rate 0.4": {"optimizer.input_rate": 0.4},
    "input_rate 0.8": {"optimizer.input_rate": 0.8},
    "rate 0.001": {"optimizer.rate": 0.001},
    "rate 0.005": {"optimizer.rate": 0.005},
    "hidden 256": {"model.hidden": "[256]"},
    "dimension 2^16": {"features.dimension": 1 << 16},
    "dimension 2^20": {"features.dimension": 1 << 20},
    "char_ngrams [3, 5]": {"features.char_ngrams": "[3,5]"},
    "no char_ngrams": {"features.char_ngrams": "[0,0]"},
    "loss bce": {"model.loss": "bce"},
    "batch_size 256": {"training.batch_size": 256},
}
_METRICS = ("P@1", "R@10", "R@100")


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    found, left_out = find_sets(parser.parse_args().sets.split(","))
    for line in left_out:
        print(line)
    path = RESULTS / "search.json"
    results: dict[str, Any] = {"schema": 1, "sets": {}}
    if path.exists():
        results = json.loads(path.read_text())
    for chosen in found:
        rows = results["sets"].setdefault(chosen.name, {})
        for name, variation in VARIATIONS.items():
            if name not in rows:
                rows[name] = measured(chosen, variation)
                print(f"{chosen.name}: {name}: {rows[name]}", flush=True)
                results["machine"] = machine()
                path.write_text(json.dumps(results, indent=1) + "\n")
                (RESULTS / "search.md").write_text(table(results["sets"]))


def measured(chosen: BenchmarkSet, variation: Mapping[str, Any]) -> dict[str, float]:
    """Train two worlds of a variation and measure them."""
    job = JOBS[chosen.name]
    varied = replace(job, settings={**job.settings, **variation})
    config = settings(chosen, varied, "search", worlds=2, buckets=job.buckets)
    shutil.rmtree(config.run, ignore_errors=True)
    ensemble = train(config).ensemble
    assert ensemble is not None
    metrics = evaluate(
        Ensemble.load(ensemble),
        str(sampled(chosen.test, RUNS / chosen.name / "search-test")),
        ks=(1, 10, 100),
        combiners=["log"],
        worlds=[2],
    ).metrics["log", 2]
    shutil.rmtree(config.run)
    return {key: round(metrics[key], 4) for key in _METRICS}


def sampled(test: Path, folder: Path) -> Path:
    """Write evenly spaced test rows into a folder and return it."""
    table = pq.read_table(test)
    rows = np.unique(np.linspace(0, table.num_rows - 1, ROWS).astype(np.int64))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.take(rows), folder / "part-000.parquet")
    return folder


def table(sets: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the results as Markdown, a column a set."""
    lines = [
        "# The search behind the defaults",
        "",
        "Made by `make bench-search`: R = 2, combiner `log`, P@1 / R@10 / R@100 in per"
        " cent of up to 4,000 test rows.",
        "",
        f"| one setting at a time | {' | '.join(sets)} |",
        f"|---|{'---|' * len(sets)}",
    ]
    for name in VARIATIONS:
        cells = [
            " / ".join(f"{100 * rows[name][key]:.1f}" for key in _METRICS) if name in rows else ""
            for rows in sets.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
