"""The search behind the defaults: one setting at a time, around two rates of Adam.

    python -m benchmarks.search [--sets tldr,api_search]

Two worlds a variation, the combiner `log`, P@1 / R@10 / R@100 on training rows
that are held back: settings are not chosen by the test rows. Writes
benchmarks/results/search.json and search.md. Interrupted, it goes on where it
was. The findings stand beside the defaults in `workers/config.py`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.accuracy import JOBS, RUNS, settings
from benchmarks.datasets import BenchmarkSet, find_sets
from benchmarks.writing import RESULTS, machine
from orchestrator import Ensemble, train
from orchestrator.ensemble import evaluate

SETS = ("tldr", "api_search", "debian_depends", "omw", "gowalla")
HELD_BACK = 5_000
"""Rows held back, at most a tenth of all."""
RUN_OF_ROWS = {"debian_depends": 50, "gowalla": 50}
"""Rows that are held back together where neighbours are siblings (of one source, of one user),
which must not be on both sides. Elsewhere neighbours are of one class, and each row is drawn alone:
nobody can name a class all of whose rows are held back."""
RATES = (0.002, 0.01)
"""Of Adam: around both of them all other settings are varied."""
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "activation relu": {"model.activation": "relu"},
    "input_rate 0.05": {"optimizer.input_rate": 0.05},
    "input_rate 0.1": {"optimizer.input_rate": 0.1},
    "input_rate 0.4": {"optimizer.input_rate": 0.4},
    "input_rate 0.8": {"optimizer.input_rate": 0.8},
    "hidden 256": {"model.hidden": "[256]"},
    "dimension 2^16": {"features.dimension": 1 << 16},
    "dimension 2^20": {"features.dimension": 1 << 20},
    "char_ngrams [3, 5]": {"features.char_ngrams": "[3,5]"},
    "no char_ngrams": {"features.char_ngrams": "[0,0]"},
    "dropout 0.2": {"features.dropout": 0.2},
    "dropout 0.5": {"features.dropout": 0.5},
    "loss bce": {"model.loss": "bce"},
    "batch_size 256": {"training.batch_size": 256},
}
VARIATIONS: Mapping[str, Mapping[str, Any]] = {
    **{f"rate {rate}": {"optimizer.rate": rate} for rate in (0.001, 0.002, 0.005, 0.01, 0.02)},
    **{
        f"rate {rate}, {name}": {"optimizer.rate": rate, **setting}
        for rate in RATES
        for name, setting in OTHERS.items()
    },
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
        halves = split(chosen)
        for name, variation in VARIATIONS.items():
            if name not in rows:
                rows[name] = measured(halves, variation)
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
        str(chosen.test),
        ks=(1, 10, 100),
        combiners=["log"],
        worlds=[2],
        leave_out=chosen.indices if chosen.leave_out_inputs else None,
    ).metrics["log", 2]
    shutil.rmtree(config.run)
    return {key: round(metrics[key], 4) for key in _METRICS}


def split(chosen: BenchmarkSet) -> BenchmarkSet:
    """Return the set with its training rows in place of both, some of them held back as test."""
    rows = pq.read_table(chosen.train)
    size = RUN_OF_ROWS.get(chosen.name, 1)
    runs = -(-rows.num_rows // size)
    count = min(HELD_BACK, rows.num_rows // 10) // size
    chosen_runs = np.random.default_rng(0).choice(runs, count, replace=False)
    held_back = np.isin(np.arange(rows.num_rows) // size, chosen_runs)
    folders = {}
    for part, mask in (("train", ~held_back), ("held-back", held_back)):
        folders[part] = RUNS / chosen.name / "search-data" / part
        folders[part].mkdir(parents=True, exist_ok=True)
        pq.write_table(
            rows.filter(pa.array(mask)), folders[part] / "rows.parquet", row_group_size=50_000
        )
    return replace(chosen, train=folders["train"], test=folders["held-back"])


def table(sets: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the results as Markdown, a column a set."""
    lines = [
        "# The search behind the defaults",
        "",
        "Made by `make bench-search`: R = 2, combiner `log`, P@1 / R@10 / R@100 in per"
        f" cent of up to {HELD_BACK:,} training rows that were held back.",
        "",
        f"| what is set | {' | '.join(sets)} |",
        f"|---|{'---|' * len(sets)}",
    ]
    measured = {name for rows in sets.values() for name in rows}
    for name in (name for name in VARIATIONS if name in measured):
        cells = [
            " / ".join(f"{100 * rows[name][key]:.1f}" for key in _METRICS) if name in rows else ""
            for rows in sets.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
