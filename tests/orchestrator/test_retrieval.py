from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.ensemble.combiners import COMBINERS, combiner
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.retrieval import QUERIES, ClassLists, brute_force, full
from workers.errors import DataError
from workers.partition import HashPartition, Partition, PermutationPartition
from workers.threads import Pool


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, Pool]]:
    with Pool(1) as one, Pool(2) as two, Pool(5) as five:
        yield {1: one, 2: two, 5: five}


def some_partitions(classes: int, buckets: int, worlds: int) -> list[Partition]:
    kinds = (PermutationPartition, HashPartition)
    return [kinds[seed % 2](classes, buckets, seed) for seed in range(worlds)]


def some_lists(rng: np.random.Generator, queries: int, classes: int, most: int) -> ClassLists:
    lengths = rng.integers(0, most + 1, queries)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return ClassLists(offsets, rng.integers(0, classes, offsets[-1]))


def both_lists(
    rng: np.random.Generator,
    queries: int,
    classes: int,
    leave_out: int | None,
    keep_to: int | None,
) -> dict[str, Any]:
    """Return lists of at most so many classes, by the names of the arguments that take them."""
    return {
        key: None if most is None else some_lists(rng, queries, classes, most)
        for key, most in (("leave_out", leave_out), ("keep_to", keep_to))
    }


def some_scores(
    rng: np.random.Generator, shape: tuple[int, int, int], levels: int
) -> NDArray[np.float32]:
    """Return bucket scores; few levels give many ties."""
    if levels == 0:
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(0, levels, shape).astype(np.float32) / np.float32(levels)


@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(2, 300),
    share=st.floats(0, 1),
    worlds=st.integers(1, 7),
    queries=st.integers(0, 70),
    k=st.sampled_from([1, 2, 3, 10, 400]),
    levels=st.sampled_from([0, 1, 2, 5]),
    name=st.sampled_from(list(COMBINERS)),
    leave_out=st.sampled_from([None, 3, 500]),
    keep_to=st.sampled_from([None, 3, 500]),
    threads=st.sampled_from([1, 2, 5]),
    block=st.sampled_from([1, 7, 64, 65_536]),
    stored=st.booleans(),
)
def test_full_equals_brute_force(
    pools: dict[int, Pool],
    seed: int,
    classes: int,
    share: float,
    worlds: int,
    queries: int,
    k: int,
    levels: int,
    name: str,
    leave_out: int | None,
    keep_to: int | None,
    threads: int,
    block: int,
    stored: bool,
) -> None:
    rng = np.random.default_rng(seed)
    buckets = max(2, int(classes * share))
    partitions = some_partitions(classes, buckets, worlds)
    scores = some_scores(rng, (worlds, queries, buckets), levels)
    lists = both_lists(rng, queries, classes, leave_out, keep_to)
    lookup = BucketLookup(partitions, pools[threads], most_bytes=2**20 if stored else 0)
    assert (lookup.stored is not None) == stored
    ids, found = full(scores, lookup, k, combiner(name), pools[threads], block=block, **lists)
    expected_ids, expected = brute_force(scores, partitions, k, combiner(name), **lists)
    assert ids.dtype == np.int64 and found.dtype == np.float32
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(found.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("listed", [False, True])
def test_many_queries_and_classes(pools: dict[int, Pool], threads: int, listed: bool) -> None:
    rng = np.random.default_rng(threads)
    classes, queries = 70_000, QUERIES + 33
    partitions = some_partitions(classes, 512, 4)
    scores = some_scores(rng, (4, queries, 512), 0)
    hidden = some_lists(rng, queries, classes, 40)
    kept = some_lists(rng, queries, classes, 4000) if listed else None
    ids, found = full(
        scores,
        BucketLookup(partitions, pools[threads]),
        20,
        combiner("log"),
        pools[threads],
        leave_out=hidden,
        keep_to=kept,
    )
    some = [0, 31, 32, QUERIES - 1, QUERIES, queries - 1]
    for i in some:
        expected_ids, expected = brute_force(
            scores[:, i : i + 1],
            partitions,
            20,
            combiner("log"),
            leave_out=hidden.of(i, i + 1),
            keep_to=kept.of(i, i + 1) if kept else None,
        )
        assert np.array_equal(ids[i : i + 1], expected_ids)
        assert np.array_equal(found[i : i + 1], expected)


def test_ties_go_to_the_lower_id(pools: dict[int, Pool]) -> None:
    partitions = some_partitions(100, 10, 3)
    scores = np.full((3, 2, 10), 0.1, dtype=np.float32)
    hidden = ClassLists(np.array([0, 0, 3]), np.array([3, 0, 1]))
    lookup = BucketLookup(partitions, pools[2])
    ids, _ = full(scores, lookup, 4, combiner("mean"), pools[2], leave_out=hidden)
    assert ids.tolist() == [[0, 1, 2, 3], [2, 4, 5, 6]]


def test_what_is_left_out_of_all_is_padding(pools: dict[int, Pool]) -> None:
    partitions = some_partitions(6, 3, 2)
    scores = np.ones((2, 2, 3), dtype=np.float32)
    kept = ClassLists(np.array([0, 2, 2]), np.array([5, 2]))
    hidden = ClassLists(np.array([0, 1, 1]), np.array([5]))
    lookup = BucketLookup(partitions, pools[1])
    ids, found = full(scores, lookup, 2, combiner("min"), pools[1], leave_out=hidden, keep_to=kept)
    assert ids.tolist() == [[2, -1], [-1, -1]]
    assert found.tolist() == [[1.0, -np.inf], [-np.inf, -np.inf]]


def test_the_first_worlds_of_a_lookup_can_answer_alone(
    pools: dict[int, Pool], rng: np.random.Generator
) -> None:
    partitions = some_partitions(500, 20, 5)
    scores = some_scores(rng, (5, 9, 20), 0)
    for most_bytes in (0, 2**20):
        lookup = BucketLookup(partitions, pools[1], most_bytes=most_bytes)
        for worlds in (1, 2, 4):
            ids, found = full(scores[:worlds], lookup, 7, combiner("median"), pools[1])
            expected = brute_force(scores[:worlds], partitions[:worlds], 7, combiner("median"))
            assert np.array_equal(ids, expected[0])
            assert np.array_equal(found, expected[1])


def test_scores_may_lie_in_memory_in_any_order(
    pools: dict[int, Pool], rng: np.random.Generator
) -> None:
    partitions = some_partitions(50, 10, 3)
    scores = some_scores(rng, (3, 10, 10), 0)
    lookup = BucketLookup(partitions, pools[1])
    straight = full(scores, lookup, 5, combiner("mean"), pools[1])
    turned = full(np.asfortranarray(scores), lookup, 5, combiner("mean"), pools[1])
    assert np.array_equal(straight[0], turned[0])


def test_what_does_not_fit_is_refused(pools: dict[int, Pool]) -> None:
    lookup = BucketLookup(some_partitions(50, 10, 3), pools[1])
    good = np.zeros((3, 2, 10), dtype=np.float32)
    mean = combiner("mean")
    for bad in (good[:, :, :9], np.zeros((4, 2, 10), dtype=np.float32), good[:0]):
        with pytest.raises(DataError, match="scores: expected float32 of"):
            full(bad, lookup, 5, mean, pools[1])
    with pytest.raises(DataError, match="found float64"):
        full(good.astype(np.float64), lookup, 5, mean, pools[1])
    with pytest.raises(DataError, match="k: expected at least 1"):
        full(good, lookup, 0, mean, pools[1])
    for offsets, listed, message in (
        ([0, 1], [4], "expected 3 offsets that end at 1, found 2"),
        ([0, 1, 1], [4, 5], "expected 3 offsets that end at 2, found 3 that end at 1"),
        ([0, 1, 2], [4, 50], "expected class ids from 0 to 49, found 50"),
        ([0, 1, 2], [-1, 4], "expected class ids from 0 to 49, found -1"),
    ):
        lists = ClassLists(np.array(offsets), np.array(listed))
        with pytest.raises(DataError, match=message):
            full(good, lookup, 5, mean, pools[1], leave_out=lists)
        with pytest.raises(DataError, match=message):
            full(good, lookup, 5, mean, pools[1], keep_to=lists)
