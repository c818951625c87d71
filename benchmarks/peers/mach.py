"""Ensembles trained in about the time that Omikuji takes, measured as the peers are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.accuracy import JOBS as JOBS_FOR_ACCURACY
from benchmarks.accuracy import Job, described, settings
from benchmarks.datasets import BenchmarkSet
from benchmarks.engine.peak import train_a_little
from benchmarks.peers.clock import ANSWERED, ASKED, Clock, latency
from orchestrator import Ensemble, train
from orchestrator.ensemble import evaluate

COMBINER = "log"
JOBS: Mapping[str, Job] = {
    "tldr": Job(
        worlds=4,
        buckets=1647,
        settings={
            "training.epochs": 3,
            "features.dimension": 1 << 16,
            "model.hidden": "[256]",
            "optimizer.rate": 0.02,
            "optimizer.input_rate": 0.4,
        },
    ),
    "omw": Job(
        worlds=4,
        buckets=4096,
        settings={
            "training.epochs": 2,
            "features.dimension": 1 << 20,
            "model.hidden": "[256]",
            "optimizer.rate": 0.002,
            "optimizer.input_rate": 0.8,
        },
    ),
    "debian_depends": Job(
        worlds=4, settings={**JOBS_FOR_ACCURACY["debian_depends"].settings, "training.epochs": 4}
    ),
    "api_search": Job(
        worlds=4,
        settings={
            "features.dimension": 1 << 16,
            "model.hidden": "[192]",
            "optimizer.rate": 0.02,
        },
    ),
}
"""Fewer epochs and smaller networks than for accuracy alone; chosen on training rows that are held
back (`benchmarks.search.split`)."""


def measure(chosen: BenchmarkSet) -> dict[str, Any]:
    """Train the worlds of a set's job, merge and test them; return what is written as JSON."""
    job, clock = JOBS[chosen.name], Clock()
    counts = range(1, job.worlds + 1)
    with tempfile.TemporaryDirectory() as run:
        config = settings(chosen, job, "mach", worlds=job.worlds, buckets=job.buckets)
        config = replace(config, run=run)
        # Kernels are compiled once for a machine, at its first training.
        train_a_little(config.world_config())
        with clock.phase("train"):
            summary = train(config)
        assert summary.ensemble is not None, summary
        files = [path for path in Path(summary.ensemble).rglob("*") if path.is_file()]
        model_bytes = sum(path.stat().st_size for path in files)
        ensemble = Ensemble.load(summary.ensemble)
        texts = pq.read_table(chosen.test, columns=list(chosen.text)).column(0)
        queries = texts.slice(0, ASKED).to_pylist()
        asked = {str(worlds): latency(asking(ensemble, worlds), queries) for worlds in counts}
        with clock.phase("predict"):
            found = evaluate(
                ensemble,
                str(chosen.test),
                ks=(1, 5, 10, 100),
                combiners=[COMBINER],
                worlds=counts,
            )
    return {
        "set": chosen.name,
        "settings": described(config),
        "metrics": {
            str(worlds): {key: round(value, 5) for key, value in metrics.items()}
            for (_, worlds), metrics in found.metrics.items()
        },
        "classes": chosen.classes,
        "threads": len(os.sched_getaffinity(0)),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "peak_rss_bytes": clock.peak_rss_bytes,
        "model_bytes": model_bytes,
        "query": {"text": asked},
    }


def asking(ensemble: Ensemble, worlds: int) -> Callable[[str], object]:
    """Return what asks the first worlds of an ensemble."""
    return lambda text: ensemble.predict([text], k=ANSWERED, combiner=COMBINER, worlds=worlds)
