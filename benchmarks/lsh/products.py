"""Worlds of a generated product search, with as many buckets as wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from benchmarks.accuracy import Job, settings
from benchmarks.datasets import BenchmarkSet
from benchmarks.generated import product_search
from benchmarks.writing import QUICK
from workers.config import WorldConfig
from workers.lsh.config import LshConfig

CLASSES, ROWS, TEST_ROWS = (20_000, 20_000, 1_000) if QUICK else (1_000_000, 1_000_000, 50_000)
HIDDEN = 256
JOB = Job(
    settings={
        "features.dimension": 32_768,
        "model.hidden": f"[{HIDDEN}]",
        "training.epochs": 1,
        # What learns most of clicks like these in one epoch; of Adam's rates 0.005 is better than
        # 0.02 for all buckets computed, and more so for some of them.
        "optimizer.input_rate": 1.0,
        "optimizer.rate": 0.005,
    }
)


class Way(NamedTuple):
    """How many buckets are computed."""

    share: float
    """Of all; 1: all of them, without tables."""
    shared: bool = False
    """Whether the rows of a batch share them."""

    @property
    def name(self) -> str:
        """In the results."""
        if self.share == 1:
            return "dense"
        return f"{'shared' if self.shared else 'own'} {self.share:g}"


def clicks() -> BenchmarkSet:
    """Return what is learnt."""
    return product_search(f"products-{CLASSES}-{ROWS}", CLASSES, train=ROWS, test=TEST_ROWS)


def world_config(buckets: int, way: Way, *, threads: int = 0) -> WorldConfig:
    """Return a world of that many buckets."""
    config = settings(clicks(), JOB, "lsh", worlds=1, buckets=buckets).world_config()
    lsh = LshConfig(narrowest=1000, shared=way.shared)
    return replace(
        config,
        model=replace(config.model, active=way.share, lsh=lsh),
        runtime=replace(config.runtime, threads=threads, device="cpu"),
    )
