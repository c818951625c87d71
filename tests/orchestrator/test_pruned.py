from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.ensemble import pruned as pruned_module
from orchestrator.ensemble import top as top_module
from orchestrator.ensemble.candidates import candidates
from orchestrator.ensemble.combiners import COMBINERS, combiner
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.pruned import pruned, search
from orchestrator.ensemble.retrieval import brute_force, full
from orchestrator.ensemble.top import Top
from tests.orchestrator.test_retrieval import both_lists
from workers.errors import DataError
from workers.partition import HashPartition, Partition, PermutationPartition
from workers.threads import Pool

Floats = NDArray[np.float32]
KINDS = ("trained", "uniform", "peaked", "tied", "equal", "adversarial")


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, Pool]]:
    with Pool(1) as one, Pool(2) as two:
        yield {1: one, 2: two}


def partitions_of(classes: int, buckets: int, worlds: int) -> list[Partition]:
    return [PermutationPartition(classes, buckets, seed) for seed in range(worlds)]


def probabilities(
    rng: np.random.Generator, kind: str, partitions: list[Partition], queries: int
) -> Floats:
    """Return bucket probabilities (R, queries, B) of one kind."""
    shape = len(partitions), queries, partitions[0].buckets
    if kind == "equal":
        return np.full(shape, 1 / shape[2], np.float32)
    if kind == "tied":
        return rng.integers(0, 3, shape).astype(np.float32) / np.float32(2)
    if kind == "uniform":
        return rng.random(shape, dtype=np.float32)
    if kind == "peaked":
        return np.power(rng.random(shape, dtype=np.float32), np.float32(40))
    logits = rng.normal(0, 2, shape)
    wanted = rng.integers(0, partitions[0].classes, (queries, 4))
    for world, partition in enumerate(partitions):
        for query, classes in enumerate(wanted):
            # The best class is hidden: behind others' buckets, and from one world altogether.
            away = kind == "adversarial" and world == query % len(partitions)
            logits[world, query, partition.buckets_of(classes)] += -9 if away else rng.normal(6, 3)
    values = np.exp(logits - logits.max(axis=2, keepdims=True))
    values /= values.sum(axis=2, keepdims=True)
    result: Floats = values.astype(np.float32)
    return result


queries_of_all_kinds = given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    classes=st.integers(2, 3000),
    share=st.floats(0.005, 1),
    worlds=st.integers(1, 9),
    queries=st.sampled_from([0, 1, 3]),
    k=st.sampled_from([1, 2, 10, 4000]),
    name=st.sampled_from(list(COMBINERS)),
    leave_out=st.sampled_from([None, 3, 500]),
    keep_to=st.sampled_from([None, None, 30]),
    negative=st.booleans(),
    threads=st.sampled_from([1, 2]),
    stored=st.booleans(),
)


def check_pruned(
    pools: dict[int, Pool],
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
    negative: bool,
    threads: int,
    stored: bool,
) -> None:
    rng = np.random.default_rng(seed)
    # One world more than is asked.
    partitions = partitions_of(classes, max(2, int(classes * share)), worlds + 1)
    scores = combiner(name).transform(probabilities(rng, kind, partitions[:worlds], queries))
    if negative:
        scores = scores - np.float32(0.7)
    lists = both_lists(rng, queries, classes, leave_out, keep_to)
    lookup = BucketLookup(partitions, pools[threads], most_bytes=2**20 if stored else 0)
    ids, found = pruned(scores, lookup, k, combiner(name), pools[threads], **lists)
    expected_ids, expected = brute_force(scores, partitions[:worlds], k, combiner(name), **lists)
    assert ids.dtype == np.int64 and found.dtype == np.float32
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(found.view(np.int32), expected.view(np.int32))


@queries_of_all_kinds
def test_pruned_equals_brute_force(pools: dict[int, Pool], **drawn: Any) -> None:
    check_pruned(pools, **drawn)


@queries_of_all_kinds
def test_many_small_tasks_and_rounds_change_nothing(pools: dict[int, Pool], **drawn: Any) -> None:
    # So that every look into buckets is many tasks, and hardly any query is left to `full`.
    small = mock.patch.multiple(top_module, CHUNK=16, FIRST=1, PART=64)
    patient = mock.patch.multiple(
        pruned_module, LOOKED_AT=20, LOOKED_AT_COMPUTED=20, HOPE=1, GROWTH=1
    )
    with small, patient:
        check_pruned(pools, **drawn)


def test_scores_that_hardly_differ_are_not_looked_into(pools: dict[int, Pool]) -> None:
    partitions = partitions_of(4000, 2000, 8)
    scores = np.random.default_rng(0).uniform(0.5, 0.5001, (8, 1, 2000)).astype(np.float32)
    # Nearly all buckets of a world are in the first bin.
    scores[:, :, 7] = 0
    lookup = BucketLookup(partitions, pools[1])
    for name in ("mean", "median"):
        top = Top(scores[:, 0], lookup, 5, combiner(name))
        assert not search(top)
        assert top.looked_at <= 200
        ids, _ = pruned(scores, lookup, 5, combiner(name), pools[1])
        assert np.array_equal(ids, brute_force(scores, partitions, 5, combiner(name))[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("find", [pruned, candidates])
def test_scores_that_are_no_numbers_are_refused(
    pools: dict[int, Pool], find: Callable[..., Any], bad: float
) -> None:
    scores = np.full((2, 1, 10), 0.1, np.float32)
    scores[1, 0, 3:] = bad
    lookup = BucketLookup(partitions_of(99, 10, 2), pools[1])
    with pytest.raises(DataError, match=r"scores: expected finite numbers, found .* from world 1"):
        find(scores, lookup, 5, combiner("mean"), pools[1])


@pytest.mark.parametrize("name", COMBINERS)
def test_a_clear_query_looks_at_few_classes(pools: dict[int, Pool], name: str) -> None:
    partitions = partitions_of(200_000, 1000, 8)
    rng = np.random.default_rng(0)
    scores = np.full((8, 1, 1000), 1e-5, np.float32) * rng.random((8, 1, 1000), np.float32)
    for world, partition in enumerate(partitions):
        scores[world, 0, partition.buckets_of(np.arange(10))] = 0.1
    scores = combiner(name).transform(scores)
    lookup = BucketLookup(partitions, pools[1], most_bytes=0)
    top = Top(scores[:, 0], lookup, 10, combiner(name))
    assert search(top)
    assert top.ids.tolist() == list(range(10))
    assert top.looked_at <= 100


def test_partitions_that_cannot_list_a_bucket_are_searched_in_full(
    pools: dict[int, Pool], rng: np.random.Generator
) -> None:
    partitions = [HashPartition(500, 50, seed) for seed in range(3)]
    scores = rng.random((3, 2, 50), dtype=np.float32)
    lookup = BucketLookup(partitions, pools[1])
    found = pruned(scores, lookup, 5, combiner("mean"), pools[1])
    wanted = brute_force(scores, partitions, 5, combiner("mean"))
    assert np.array_equal(found[0], wanted[0]) and np.array_equal(found[1], wanted[1])


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", COMBINERS)
def test_threads_that_share_a_search_find_what_one_finds(
    pools: dict[int, Pool], monkeypatch: pytest.MonkeyPatch, name: str, stored: bool
) -> None:
    # So that every look at some buckets is many tasks.
    monkeypatch.setattr(top_module, "CHUNK", 16)
    monkeypatch.setattr(pruned_module, "LOOKED_AT", 5)
    monkeypatch.setattr(pruned_module, "LOOKED_AT_COMPUTED", 5)
    monkeypatch.setattr(pruned_module, "HOPE", 1)
    partitions = partitions_of(20_000, 400, 6)
    rng = np.random.default_rng(3)
    lookup = BucketLookup(partitions, pools[2], most_bytes=2**24 if stored else 0)
    sure = 0
    for _ in range(20):
        # Of the lookup's first five worlds.
        scores = combiner(name).transform(probabilities(rng, "trained", partitions[:5], 1))
        top = Top(scores[:, 0], lookup, 5, combiner(name), pool=pools[2])
        if search(top):
            sure += 1
            wanted, found = brute_force(scores, partitions[:5], 5, combiner(name))
            assert top.ids.tolist() == wanted[0].tolist()
            finished = combiner(name).finish(top.found, 5, partitions[0].collision_chance)
            assert np.array_equal(finished, found[0])
    assert sure >= 15


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", COMBINERS)
def test_more_buckets_than_two_bytes_hold(pools: dict[int, Pool], name: str, stored: bool) -> None:
    partitions = partitions_of(150_000, 70_000, 3)
    scores = combiner(name).transform(
        probabilities(np.random.default_rng(4), "trained", partitions, 2)
    )
    lookup = BucketLookup(partitions, pools[2], most_bytes=2**24 if stored else 0)
    assert lookup.stored is None or lookup.stored.dtype == np.uint32
    wanted, expected = brute_force(scores, partitions, 4, combiner(name))
    for find in (pruned, full):
        ids, found = find(scores, lookup, 4, combiner(name), pools[2])
        assert np.array_equal(ids, wanted) and np.array_equal(found, expected)
