"""Trained ensembles of any K, kept for reuse, and the scores that they give queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.accuracy import Job, lines, settings
from benchmarks.datasets import CACHE
from benchmarks.generated import product_search
from benchmarks.writing import QUICK, ROOT
from orchestrator import Ensemble, train

RUNS = ROOT / ".bench" / "retrieval"
WORLDS = 4 if QUICK else 32
BUCKETS = 2_000 if QUICK else 20_000
TRAIN_ROWS = 20_000 if QUICK else 500_000
TEST_ROWS = 2_000
JOB = Job(
    worlds=WORLDS,
    settings={
        "features.dimension": 32_768,
        "model.hidden": "[64]",
        "training.epochs": 1,
        "runtime.checkpoint_steps": 10**9,
    },
)


def ensemble(classes: int) -> Ensemble:
    """Return an ensemble for a generated product search of so many products, trained if need be."""
    name = f"products-{classes}-{TRAIN_ROWS}"
    products = product_search(name, classes, train=TRAIN_ROWS, test=TEST_ROWS)
    buckets = min(BUCKETS, classes // 4)
    config = settings(products, JOB, "mach", worlds=WORLDS, buckets=buckets)
    config = replace(config, run=str(RUNS / f"{name}-{WORLDS}"))
    found = train(config, listener=lines(name)).ensemble
    assert found is not None
    return Ensemble.load(found)


def queries(classes: int, count: int) -> list[str]:
    """Return test queries of that search."""
    folder = CACHE / f"products-{classes}-{TRAIN_ROWS}" / "test"
    texts: list[str] = pq.read_table(folder, columns=["query"]).column(0)[:count].to_pylist()
    return texts


def probabilities(opened: Ensemble, asked: list[str]) -> NDArray[np.float32]:
    """Return (R, n, B) bucket probabilities."""
    parts = [part for _, _, part in opened.probabilities(opened.table(asked))]
    return np.concatenate(parts, axis=1)
