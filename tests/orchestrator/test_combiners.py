from __future__ import annotations

import numpy as np
import pytest

from orchestrator.ensemble.combiners import COMBINERS, EPSILON, combiner
from workers.errors import ConfigError
from workers.partition import HashPartition, Partition, PermutationPartition

P = np.array([[[0.5, 0.25]], [[0.1, 0.75]], [[0.0, 0.5]], [[0.9, 0.125]]], dtype=np.float32)


def test_there_are_four() -> None:
    assert list(COMBINERS) == ["mean", "log", "min", "median"]


def test_mean_takes_the_chance_of_a_collision_off() -> None:
    scores = combiner("mean").combine(P, chance=0.2)
    assert scores == pytest.approx(np.array([[(0.375 - 0.2) / 0.8, (0.40625 - 0.2) / 0.8]]))


def test_log_is_the_mean_logarithm() -> None:
    scores = combiner("log").combine(P, chance=0.2)
    expected = np.log(P.astype(np.float64) + float(EPSILON)).mean(axis=0)
    assert scores == pytest.approx(expected, rel=1e-6)


def test_min_is_the_worst_world() -> None:
    assert combiner("min").combine(P, chance=0.2).tolist() == [[0.0, 0.125]]


@pytest.mark.parametrize("worlds", [1, 2, 3, 4, 5])
def test_median_is_numpys(worlds: int, rng: np.random.Generator) -> None:
    values = rng.random((worlds, 3, 7), dtype=np.float32)
    assert combiner("median").combine(values, chance=0.2) == pytest.approx(
        np.median(values, axis=0)
    )


def test_inputs_are_left_as_they_are() -> None:
    before = P.copy()
    for each in COMBINERS.values():
        assert each.combine(P, chance=0.1).dtype == np.float32
        assert np.array_equal(P, before)


@pytest.mark.parametrize("name", list(COMBINERS))
def test_finishing_keeps_order_and_padding(name: str, rng: np.random.Generator) -> None:
    reduced = np.sort(rng.standard_normal(100).astype(np.float32))
    reduced[0] = -np.inf
    finished = combiner(name).finish(reduced, worlds=3, chance=0.01)
    assert finished[0] == -np.inf
    assert (np.diff(finished[1:]) >= 0).all()


@pytest.mark.parametrize("kind", [PermutationPartition, HashPartition])
def test_mean_is_unbiased(
    kind: type[PermutationPartition] | type[HashPartition], rng: np.random.Generator
) -> None:
    # Perfect worlds know each bucket's true probability; over many of them the
    # estimates come to the classes' own probabilities.
    truth = rng.dirichlet(np.full(30, 0.3))
    worlds: list[Partition] = [kind(30, 7, seed) for seed in range(4000)]
    of_class = np.array([world.buckets_of(np.arange(30)) for world in worlds])
    sums = np.array([np.bincount(buckets, truth, minlength=7) for buckets in of_class])
    looked_up = np.take_along_axis(sums, of_class, axis=1).astype(np.float32)[:, None]
    estimate = combiner("mean").combine(looked_up, worlds[0].collision_chance)[0]
    assert np.abs(estimate - truth).max() < 0.02
    assert np.abs(looked_up.mean(axis=0) - truth).max() > 0.1


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of mean, log, min, median, found max"):
        combiner("max")
