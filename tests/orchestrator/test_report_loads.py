"""How many classes share a bucket, as reports tell it."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.report.loads import bucket_loads
from workers.config import PartitionConfig
from workers.partition import partition_for


@pytest.mark.parametrize("kind", ["permutation", "hash"])
@pytest.mark.parametrize(("classes", "buckets"), [(1000, 16), (64, 64), (1003, 17)])
def test_loads_are_those_of_world_0(kind: str, classes: int, buckets: int) -> None:
    config = PartitionConfig(kind=kind, buckets=buckets)  # type: ignore[arg-type]
    found = bucket_loads(config, classes, 7)
    places = partition_for(config, classes, 7, 0).buckets_of(np.arange(classes, dtype=np.int64))
    loads, counts = np.unique(np.bincount(places, minlength=buckets), return_counts=True)
    assert dict(found.buckets) == dict(zip(loads.tolist(), counts.tolist(), strict=True))
    assert found.counted == classes


def test_of_very_many_hashed_classes_the_first_are_counted() -> None:
    config = PartitionConfig(kind="hash", buckets=16)
    found = bucket_loads(config, 10**12, 7, most=5000)
    assert found.counted == 5000
    assert sum(load * count for load, count in found.buckets.items()) == 5000


def test_a_permutation_of_any_size_needs_no_counting() -> None:
    found = bucket_loads(PartitionConfig(buckets=1000), 10**15 + 1, 7)
    assert dict(found.buckets) == {10**12: 999, 10**12 + 1: 1}
