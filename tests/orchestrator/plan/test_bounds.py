"""The bounds on confusion and deviation, beside partitions that are really drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.plan import bounds, buckets_for, collision, confusion, deviation
from orchestrator.plan.bounds import Kind
from workers.config import PartitionConfig
from workers.partition import partition_for

KINDS: tuple[Kind, ...] = ("permutation", "hash")


def drawn(kind: Kind, classes: int, buckets: int, worlds: int) -> np.ndarray:
    """Return the buckets of all classes, (worlds, classes)."""
    config = PartitionConfig(kind=kind, buckets=buckets)
    ids = np.arange(classes)
    return np.stack(
        [np.asarray(partition_for(config, classes, 7, r).buckets_of(ids)) for r in range(worlds)]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("classes", "buckets"), [(60, 10), (6, 4), (14, 8)])
def test_two_classes_share_a_bucket_as_often_as_told(
    kind: Kind, classes: int, buckets: int
) -> None:
    worlds = 2000
    found = drawn(kind, classes, buckets, worlds)
    shared = (found[:, ::2] == found[:, 1::2]).mean()
    q = collision(classes, buckets, kind)
    spread = math.sqrt(q * (1 - q) / (worlds * classes / 2))
    assert abs(shared - q) < 5 * spread


@pytest.mark.parametrize("kind", KINDS)
def test_some_pair_shares_all_buckets_no_more_often_than_told(kind: Kind) -> None:
    classes, buckets, worlds, times = 40, 8, 5, 400
    found = drawn(kind, classes, buckets, worlds * times).reshape(times, worlds, classes)
    confused = [len(np.unique(run.T, axis=0)) < classes for run in found]
    most = confusion(classes, buckets, worlds, kind)
    assert 0 < most < 0.1
    assert np.mean(confused) <= most + 4 * math.sqrt(most / times)


@pytest.mark.parametrize("kind", KINDS)
def test_the_deviation_is_that_of_the_worst_probabilities(kind: Kind) -> None:
    classes, buckets, worlds, times = 60, 6, 4, 1500
    found = drawn(kind, classes, buckets, worlds * times).reshape(times, worlds, classes)
    q = collision(classes, buckets, kind)

    def spread(probabilities: np.ndarray) -> float:
        """Return the standard deviation of the estimated probability of class 0."""
        shares = (found == found[:, :, :1]) @ probabilities
        return float(np.std((shares.mean(axis=1) - q) / (1 - q)))

    other = np.zeros(classes)
    other[1] = 1
    told = deviation(classes, buckets, worlds, kind)
    assert spread(other) == pytest.approx(told, rel=0.1)
    assert spread(np.full(classes, 1 / classes)) < told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("classes", "buckets"), [(1000, 16), (138_210, 4096), (10**8, 20_000)])
def test_the_least_worlds_keep_the_bounds_and_one_less_does_not(
    kind: Kind, classes: int, buckets: int
) -> None:
    found = bounds(classes, buckets, kind=kind, most_confusion=0.01, most_deviation=0.02)
    for least, of, most in (
        (found.least_for_confusion, confusion, 0.01),
        (found.least_for_deviation, deviation, 0.02),
    ):
        assert of(classes, buckets, least, kind) <= most * (1 + 1e-9)
        if least > 1:
            assert of(classes, buckets, least - 1, kind) > most
    assert found.worlds >= max(8, found.least)
    assert found.confusion <= 0.01
    assert found.deviation <= 0.02


def test_the_papers_theorem_asks_for_about_as_many_worlds() -> None:
    classes, buckets, delta = 49_460_000, 20_000, 0.001
    theorem = 2 * math.log(classes / math.sqrt(delta)) / math.log(buckets)
    least = bounds(classes, buckets, kind="hash", most_confusion=delta).least_for_confusion
    assert theorem - 1 <= least <= math.ceil(theorem)


def test_worlds_that_were_given_stay() -> None:
    found = bounds(1000, 16, 3)
    assert found.worlds == 3
    assert found.least > 3


def test_a_bucket_for_each_class_takes_one_world() -> None:
    found = bounds(50, 50)
    assert (found.least, found.confusion, found.deviation) == (1, 0, 0)


@pytest.mark.parametrize(("classes", "buckets"), [(2, 2), (6590, 1647), (10**8, 16_384)])
def test_buckets_are_a_quarter_of_the_classes_up_to_some(classes: int, buckets: int) -> None:
    assert buckets_for(classes) == buckets
