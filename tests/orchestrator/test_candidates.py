from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.ensemble.candidates import candidates
from orchestrator.ensemble.combiners import COMBINERS, combiner
from orchestrator.ensemble.cover import best_buckets
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.retrieval import ClassLists, brute_force
from tests.orchestrator.test_pruned import partitions_of, probabilities
from tests.orchestrator.test_retrieval import some_lists
from workers.errors import DataError
from workers.partition import Partition
from workers.threads import Pool


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as two:
        yield two


def named(partitions: Sequence[Partition], scores: NDArray[np.float32], buckets: int) -> ClassLists:
    """Return the classes in so many best buckets of each world, of one query's scores."""
    classes = {
        c
        for p, s in zip(partitions, scores, strict=True)
        for b in best_buckets(s, min(buckets, p.buckets))
        for c in p.classes_of(int(b)).tolist()
    }
    return ClassLists(np.array([0, len(classes)]), np.array(sorted(classes)))


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["trained", "tied", "equal"]),
    classes=st.integers(2, 500),
    buckets=st.integers(2, 60),
    k=st.sampled_from([1, 10, 600]),
    name=st.sampled_from(list(COMBINERS)),
    leave_out=st.sampled_from([None, 3, 500]),
)
def test_all_buckets_of_all_worlds_give_the_exact_answer(
    pool: Pool, seed: int, kind: str, classes: int, buckets: int, k: int, name: str, leave_out: int
) -> None:
    rng = np.random.default_rng(seed)
    partitions = partitions_of(classes, min(buckets, classes), 3)
    scores = combiner(name).transform(probabilities(rng, kind, partitions, 3))
    hidden = None if leave_out is None else some_lists(rng, 3, classes, leave_out)
    lookup = BucketLookup(partitions, pool)
    found = candidates(scores, lookup, k, combiner(name), pool, buckets=60, leave_out=hidden)
    # Every class is named by every world, so that all are scored.
    wanted = brute_force(scores, partitions, k, combiner(name), leave_out=hidden)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1].view(np.int32), wanted[1].view(np.int32))


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["trained", "tied", "peaked"]),
    classes=st.integers(20, 2000),
    buckets=st.integers(1, 12),
    k=st.sampled_from([1, 5]),
    name=st.sampled_from(list(COMBINERS)),
    leave_out=st.sampled_from([None, 30]),
    stored=st.booleans(),
)
def test_the_best_of_what_is_named_are_found(
    pool: Pool,
    seed: int,
    kind: str,
    classes: int,
    buckets: int,
    k: int,
    name: str,
    leave_out: int | None,
    stored: bool,
) -> None:
    rng = np.random.default_rng(seed)
    # One world more than is asked.
    lookup = BucketLookup(
        partitions_of(classes, max(2, classes // 5), 6), pool, most_bytes=2**20 if stored else 0
    )
    partitions = list(lookup.partitions[:5])
    scores = combiner(name).transform(probabilities(rng, kind, partitions, 1))
    hidden = None if leave_out is None else some_lists(rng, 1, classes, leave_out)
    kept = named(partitions, scores[:, 0], buckets)
    wanted = brute_force(scores, partitions, k, combiner(name), leave_out=hidden, keep_to=kept)
    assume(wanted[0].min() >= 0)
    found = candidates(scores, lookup, k, combiner(name), pool, buckets=buckets, leave_out=hidden)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1].view(np.int32), wanted[1].view(np.int32))


@pytest.mark.parametrize("name", ["mean", "log"])
def test_what_the_worlds_agree_on_is_found(pool: Pool, name: str) -> None:
    rng = np.random.default_rng(0)
    partitions = partitions_of(100_000, 500, 8)
    scores = combiner(name).transform(probabilities(rng, "trained", partitions, 40))
    lookup = BucketLookup(partitions, pool, most_bytes=0)
    ids, found = candidates(scores, lookup, 1, combiner(name), pool, buckets=8)
    best, score = brute_force(scores, partitions, 1, combiner(name))
    right = ids[:, 0] == best[:, 0]
    assert right.mean() >= 0.9
    assert np.array_equal(found[right], score[right])
    assert (found <= score).all()


def test_many_classes_are_wanted(pool: Pool) -> None:
    partitions = partitions_of(20_000, 500, 8)
    rng = np.random.default_rng(2)
    scores = combiner("mean").transform(probabilities(rng, "uniform", partitions, 1))
    lookup = BucketLookup(partitions, pool)
    ids, _ = candidates(scores, lookup, 3000, combiner("mean"), pool, buckets=16)
    # So many are named by one world or more already.
    kept = named(partitions, scores[:, 0], 16)
    assert len(kept.classes) > 3000
    wanted, _ = brute_force(scores, partitions, 3000, combiner("mean"), keep_to=kept)
    assert np.array_equal(ids, wanted)


def test_left_out_classes_are_replaced_by_the_next_best(pool: Pool) -> None:
    partitions = partitions_of(1000, 50, 4)
    scores = combiner("log").transform(
        probabilities(np.random.default_rng(1), "trained", partitions, 1)
    )
    lookup = BucketLookup(partitions, pool)
    first, _ = candidates(scores, lookup, 1000, combiner("log"), pool)
    hidden = ClassLists(np.array([0, 990]), first[0, :990])
    rest, _ = candidates(scores, lookup, 20, combiner("log"), pool, buckets=1, leave_out=hidden)
    assert rest[0].tolist() == [*first[0, 990:].tolist(), *[-1] * 10]


def test_of_equal_buckets_the_lower_numbers_are_the_best() -> None:
    scores = np.array([0.5, 0.9, 0.1, 0.9, 0.5, 0.5], np.float32)
    assert best_buckets(scores, 4).tolist() == [0, 1, 3, 4]
    assert best_buckets(scores, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_no_buckets_are_refused(pool: Pool) -> None:
    lookup = BucketLookup(partitions_of(10, 2, 1), pool)
    with pytest.raises(DataError, match="buckets: expected at least 1 of each world, found 0"):
        candidates(np.ones((1, 1, 2), np.float32), lookup, 1, combiner("log"), pool, buckets=0)
