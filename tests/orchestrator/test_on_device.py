"""Retrieval over tensors, which a GPU runs, gives what the host's gives; here on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ensemble import on_device
from orchestrator.ensemble.candidates import candidates
from orchestrator.ensemble.combiners import COMBINERS, combiner
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.on_device import DeviceLookup
from orchestrator.ensemble.retrieval import brute_force
from tests.orchestrator.test_pruned import KINDS, partitions_of, probabilities
from tests.orchestrator.test_retrieval import both_lists, some_partitions
from workers.errors import DataError
from workers.threads import Pool


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as one:
        yield one


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    classes=st.integers(2, 2000),
    share=st.floats(0.005, 1),
    worlds=st.integers(1, 6),
    queries=st.sampled_from([0, 1, 3]),
    k=st.sampled_from([1, 10, 2500]),
    name=st.sampled_from(list(COMBINERS)),
    leave_out=st.sampled_from([None, 3, 500]),
    keep_to=st.sampled_from([None, 30]),
    invertible=st.booleans(),
    stored=st.booleans(),
)
def test_all_modes_give_what_the_host_gives(
    pool: Pool,
    seed: int,
    kind: str,
    classes: int,
    share: float,
    worlds: int,
    queries: int,
    k: int,
    name: str,
    leave_out: int | None,
    keep_to: int | None,
    invertible: bool,
    stored: bool,
) -> None:
    rng = np.random.default_rng(seed)
    buckets = max(2, int(classes * share))
    of = partitions_of if invertible else some_partitions
    partitions = of(classes, buckets, worlds)
    by = combiner(name)
    scores = by.transform(probabilities(rng, kind, partitions, queries))
    lists = both_lists(rng, queries, classes, leave_out, keep_to)
    host = BucketLookup(partitions, pool)
    lookup = DeviceLookup(host, "cpu", most_bytes=2**30 if stored else 0)
    tensor = torch.from_numpy(scores)
    ids, found = on_device.full(tensor, lookup, k, by, **lists, work_bytes=10_000)
    wanted_ids, wanted = brute_force(scores, partitions, k, by, **lists)
    assert ids.dtype == np.int64 and found.dtype == np.float32
    assert np.array_equal(ids, wanted_ids)
    assert np.array_equal(found.view(np.int32), wanted.view(np.int32))

    ids, found = on_device.candidates(tensor, lookup, k, by, buckets=2, **lists)
    wanted_ids, wanted = candidates(scores, host, k, by, pool, buckets=2, **lists)
    assert np.array_equal(ids, wanted_ids)
    assert np.array_equal(found.view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize("name", COMBINERS)
def test_transformed_scores_are_those_of_the_host(name: str) -> None:
    parts = np.random.default_rng(0).random((3, 4, 50), np.float32)
    found = on_device.transformed([torch.from_numpy(part.copy()) for part in parts], combiner(name))
    np.testing.assert_allclose(found, combiner(name).transform(parts), rtol=1e-6)


def test_scores_below_zero_are_in_order(pool: Pool) -> None:
    (partition,) = partitions_of(6, 6, 1)
    by_class = np.array([-1.5, 2.0, -0.0, 0.0, -1e-30, 1e-30], np.float32)
    scores = np.empty((1, 1, 6), np.float32)
    scores[0, 0, partition.buckets_of(np.arange(6))] = by_class
    lookup = DeviceLookup(BucketLookup([partition], pool), "cpu", most_bytes=0)
    ids, found = on_device.full(torch.from_numpy(scores), lookup, 6, combiner("min"))
    assert ids.tolist() == [[1, 5, 2, 3, 4, 0]]
    assert found[0].tolist() == sorted(by_class.tolist(), reverse=True)


def test_what_does_not_fit_is_refused(pool: Pool) -> None:
    host = BucketLookup(partitions_of(50, 10, 2), pool)
    lookup = DeviceLookup(host, "cpu", most_bytes=0)
    with pytest.raises(DataError, match="found float64 of"):
        on_device.full(torch.zeros(2, 1, 10, dtype=torch.float64), lookup, 1, combiner("mean"))
    with pytest.raises(DataError, match="buckets: expected at least 1 of each world, found 0"):
        on_device.candidates(torch.zeros(2, 1, 10), lookup, 1, combiner("mean"), buckets=0)
    many = BucketLookup(partitions_of(2**32, 10, 1), pool)
    with pytest.raises(DataError, match="expected at most 4,294,967,295 to search on cpu"):
        DeviceLookup(many, "cpu", most_bytes=0)
