"""Trained ensembles of any K, kept for reuse, and the scores that they give queries."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.accuracy import Job, lines, settings
from benchmarks.datasets import BenchmarkSet
from benchmarks.generated import product_search
from benchmarks.writing import QUICK, ROOT
from examples.product_search import Catalogue, write
from orchestrator import Ensemble, api

RUNS = ROOT / ".bench" / "retrieval"
WORLDS = 4 if QUICK else 32
BUCKETS = 2_000 if QUICK else 20_000
TRAIN_ROWS = 20_000 if QUICK else 500_000
LARGEST = 50_000_000
"""Beyond so many classes only a tenth of the clicks: such an ensemble shows that it answers."""
TEST_ROWS = 2_000 if QUICK else 20_000
WRITTEN_ROWS = 50_000 if QUICK else 1_000_000
"""Clicks that are written to tell how fast that is."""
JOB = Job(
    worlds=WORLDS,
    settings={
        "features.dimension": 32_768,
        "model.hidden": "[64]",
        "training.epochs": 1,
        # What learns most of clicks like these in one epoch (docs/performance.md).
        "optimizer.input_rate": 1.0,
        "optimizer.rate": 0.02,
        "runtime.checkpoint_steps": 10**9,
    },
)


@dataclass(frozen=True)
class Search:
    """A generated product search and the run that learnt it."""

    classes: int
    """K, the products."""

    @property
    def rows(self) -> int:
        """Clicks that it is learnt from."""
        return TRAIN_ROWS if self.classes <= LARGEST else TRAIN_ROWS // 10

    @property
    def name(self) -> str:
        """Of its folders."""
        return f"products-{self.classes}-{self.rows}"

    @cached_property
    def products(self) -> BenchmarkSet:
        """Its clicks, written if need be."""
        return product_search(self.name, self.classes, train=self.rows, test=TEST_ROWS)

    @cached_property
    def run(self) -> str:
        """The run, trained if need be."""
        buckets = min(BUCKETS, self.classes // 4)
        config = settings(self.products, JOB, "mach", worlds=WORLDS, buckets=buckets)
        config = replace(config, run=str(RUNS / f"{self.name}-{WORLDS}"))
        return api.train(config, listener=lines(self.name)).run

    def merged(self, *, weights: str = "fp32") -> str:
        """Return the ensemble with weights of that precision and a stored lookup."""
        return api.merge(self.run, weights=weights, lookup="stored")

    def queries(self, count: int) -> list[str]:
        """Return test queries."""
        column = pq.read_table(self.products.test, columns=["query"]).column(0)
        texts: list[str] = column[:count].to_pylist()
        return texts


def probabilities(opened: Ensemble, asked: list[str]) -> NDArray[np.float32]:
    """Return (R, n, B) bucket probabilities."""
    parts = [np.stack(part) for _, _, part in opened.probabilities(opened.table(asked))]
    return np.concatenate(parts, axis=1)


def writing_rate(classes: int, folder: Path) -> float:
    """Return the clicks a second that are generated and written."""
    began = time.perf_counter()
    write(folder, Catalogue(classes), train=WRITTEN_ROWS, test=0)
    return WRITTEN_ROWS / (time.perf_counter() - began)
