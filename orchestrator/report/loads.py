"""How many classes share a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workers.config import PartitionConfig
from workers.partition import partition_for

MOST_CLASSES = 1 << 27
"""Classes whose buckets are counted one by one: a second or two."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketLoads:
    """The loads of the buckets of world 0."""

    buckets: Mapping[int, int]
    """By load in classes, ascending: how many buckets have it."""
    counted: int
    """Classes, from the first, whose buckets were looked at."""


def bucket_loads(
    config: PartitionConfig, classes: int, seed: int, *, most: int = MOST_CLASSES
) -> BucketLoads:
    """Return the loads of world 0's partition of `classes` classes in a run with `seed`.

    Those of a permutation follow from K and B; those of a hash are counted, over the first
    `most` classes where there are more.
    """
    if config.kind == "permutation":
        small, larger = divmod(classes, config.buckets)
        loads = {small: config.buckets - larger, small + 1: larger}
        return BucketLoads(
            buckets={load: count for load, count in loads.items() if count}, counted=classes
        )
    counted = min(classes, most)
    return BucketLoads(buckets=_counted(config, classes, seed, counted), counted=counted)


def _counted(config: PartitionConfig, classes: int, seed: int, counted: int) -> dict[int, int]:
    partition = partition_for(config, classes, seed, 0)
    totals = np.zeros(config.buckets, np.int64)
    block = max(_BLOCK, config.buckets)
    for start in range(0, counted, block):
        ids = np.arange(start, min(start + block, counted), dtype=np.int64)
        totals += np.bincount(partition.buckets_of(ids), minlength=config.buckets)
    loads, counts = np.unique(totals, return_counts=True)
    return dict(zip(loads.tolist(), counts.tolist(), strict=True))
