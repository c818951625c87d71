"""The world that the engine is measured on, and how often."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from benchmarks.datasets import BenchmarkSet
from benchmarks.writing import QUICK
from workers.config import (
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    PartitionConfig,
    TrainingConfig,
    WorldConfig,
)

DIMENSION, HIDDEN, BUCKETS, BATCH = 131_072, 256, 4096, 1024
ROUNDS = 2 if QUICK else 9
STEPS = 10 if QUICK else 50
"""Steps of each measure in a round."""


def world_config(chosen: BenchmarkSet) -> WorldConfig:
    """Return a world of the size that is measured."""
    return WorldConfig(
        data=DataConfig(
            train=str(chosen.train),
            classes=chosen.classes,
            text=chosen.text,
            labels=chosen.labels,
        ),
        partition=PartitionConfig(buckets=BUCKETS),
        features=FeaturesConfig(dimension=DIMENSION),
        model=ModelConfig(hidden=(HIDDEN,)),
        training=TrainingConfig(epochs=100, batch_size=BATCH),
    )


def middle(ratios: Iterable[float]) -> float:
    """Return the median of ratios, rounded."""
    return round(statistics.median(ratios), 3)
