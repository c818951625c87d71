"""What a world of very many buckets keeps of its accuracy with few of them computed."""

from __future__ import annotations

from functools import partial

from benchmarks.kept import Found, Kept
from benchmarks.lsh.products import Way, clicks, world_config
from benchmarks.lsh.training import bucket_accuracy, trained
from benchmarks.writing import QUICK
from workers.threads import Pool

BUCKETS = 2_000 if QUICK else 200_000
WAYS = (Way(1.0), Way(0.002), Way(0.005), Way(0.02, shared=True), Way(0.05, shared=True))


def measure() -> None:
    """Measure what is missing."""
    kept = Kept("lsh", "wide")
    for way in WAYS:
        kept.measure(way.name, partial(_measured, way))


def _measured(way: Way) -> Found:
    with Pool() as pool:
        world, cost = trained(world_config(BUCKETS, way), "hashing", 0, pool)
        return {"accuracy": bucket_accuracy(world, clicks(), "hashing"), **cost}
