from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.config import PartitionConfig
from workers.errors import ConfigError, DataError
from workers.hashing import derive_seed
from workers.partition import (
    HashPartition,
    Partition,
    PermutationPartition,
    partition_for,
)
from workers.permutation import Permutation, permute_reference, permute_torch

Kind = type[PermutationPartition] | type[HashPartition]
both = pytest.mark.parametrize("kind", [PermutationPartition, HashPartition])
sizes = st.integers(1, 300) | st.integers(1, 2**62) | st.sampled_from([2**40, 2**40 + 1, 2**62])
seeds = st.integers(0, 2**64 - 1)


def deviations(observed: NDArray[np.int64], expected: float | NDArray[np.float64]) -> float:
    """Chi-square as standard deviations from its mean, cells minus one degrees of freedom."""
    free = observed.size - 1
    chi_square = float((np.square(observed - expected) / expected).sum())
    return (chi_square - free) / float(np.sqrt(2 * free))


def some_classes(classes: int) -> dict[str, NDArray[np.int64]]:
    generator = np.random.default_rng(classes)
    return {
        "consecutive": np.arange(200_000, dtype=np.int64) + classes // 3,
        "random": np.unique(generator.integers(0, classes, 200_000)),
        "strided": np.arange(100_000, dtype=np.int64) * (classes // 100_000),
    }


# Permutation


@pytest.mark.parametrize("n", [*range(1, 70), 127, 128, 129, 4096, 4097, 70_000])
def test_permutation_is_a_bijection(n: int) -> None:
    permutation = Permutation(n, seed=n)
    everything = np.arange(n, dtype=np.int64)
    images = permutation.forward(everything)
    assert np.array_equal(np.sort(images), everything)
    assert np.array_equal(permutation.inverse(images), everything)


@given(sizes, seeds, st.data())
def test_numba_numpy_and_torch_agree(n: int, seed: int, data: st.DataObject) -> None:
    permutation = Permutation(n, seed)
    x = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1)), dtype=np.int64)
    images = permutation.forward(x)
    assert images.min() >= 0 and images.max() < n
    assert np.array_equal(permutation.inverse(images), x)
    assert np.array_equal(permute_reference(permutation, x), images)
    assert np.array_equal(permute_reference(permutation, images, backward=True), x)
    assert np.array_equal(permute_torch(permutation, torch.from_numpy(x)).numpy(), images)
    assert np.array_equal(permutation.inverse(torch.from_numpy(images)).numpy(), x)


def test_permutation_keeps_the_shape() -> None:
    x = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    images = Permutation(24, 1).forward(x)
    assert images.shape == (2, 3, 4)
    strided = np.asfortranarray(x)[:, ::2]
    assert np.array_equal(Permutation(24, 1).forward(strided), images[:, ::2])


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_every_ordered_pair_of_images_is_equally_likely(n: int) -> None:
    tries = 10_000
    pairs = np.zeros((n, n), dtype=np.int64)
    for seed in range(tries):
        first, second = Permutation(n, derive_seed(seed)).forward(np.array([0, 1]))
        pairs[first, second] += 1
    distinct = pairs[~np.eye(n, dtype=bool)]
    assert deviations(distinct, tries / distinct.size) < 5


@pytest.mark.parametrize("n", [0, -1, 2**62 + 1])
def test_permutation_refuses_other_sizes(n: int) -> None:
    with pytest.raises(ConfigError, match=r"expected a domain of 1 to 2\^62"):
        Permutation(n, 0)


# Partition


@pytest.mark.parametrize(
    ("kind", "classes", "buckets", "seed", "expected"),
    [
        (PermutationPartition, 2, 2, 0, [0, 1, 1, 0, 1]),
        (HashPartition, 2, 2, 0, [0, 1, 1, 0, 1]),
        (PermutationPartition, 10, 3, 1, [1, 2, 2, 0, 0]),
        (HashPartition, 10, 3, 1, [2, 1, 0, 2, 0]),
        (PermutationPartition, 1000, 64, 2, [23, 10, 36, 47, 42]),
        (HashPartition, 1000, 64, 2, [57, 60, 41, 49, 37]),
        (PermutationPartition, 1_000_003, 4096, 3, [3912, 2236, 752, 2328, 1624]),
        (HashPartition, 1_000_003, 4096, 3, [3436, 2988, 2309, 75, 2323]),
        (PermutationPartition, 2**40, 65536, 2**64 - 1, [40895, 42618, 25575, 38249, 40744]),
        (HashPartition, 2**40, 65536, 2**64 - 1, [17488, 6467, 26662, 11866, 56402]),
        (
            PermutationPartition,
            2**62,
            2**31 - 1,
            5,
            [1620419608, 584108005, 1278006954, 1798223243, 550154852],
        ),
        (
            HashPartition,
            2**62,
            2**31 - 1,
            5,
            [1443899268, 1081843129, 975868939, 1470998466, 352218769],
        ),
    ],
)
def test_buckets_are_frozen(
    kind: Kind, classes: int, buckets: int, seed: int, expected: list[int]
) -> None:
    some = np.array([0, 1, classes // 2, classes - 2, classes - 1])
    assert kind(classes, buckets, seed).buckets_of(some).tolist() == expected


def test_a_worlds_partition_is_frozen() -> None:
    some = np.arange(8)
    permutation = partition_for(PartitionConfig(buckets=64), 1000, seed=0, world=7)
    hashed = partition_for(PartitionConfig(kind="hash", buckets=64), 1000, seed=0, world=7)
    assert permutation.buckets_of(some).tolist() == [10, 54, 28, 26, 59, 38, 61, 38]
    assert hashed.buckets_of(some).tolist() == [50, 35, 57, 12, 38, 8, 62, 57]


@both
@given(classes=sizes, share=st.floats(0, 1), seed=seeds, data=st.data())
def test_torch_and_numpy_buckets_agree(
    kind: Kind, classes: int, share: float, seed: int, data: st.DataObject
) -> None:
    partition = kind(classes, max(1, min(int(classes * share), 2**31 - 1)), seed)
    some = np.array(data.draw(st.lists(st.integers(0, classes - 1), max_size=20)), dtype=np.int64)
    buckets = partition.buckets_of(some.reshape(-1, 1))
    assert buckets.dtype == np.int32 and buckets.shape == (len(some), 1)
    tensor = partition.buckets_of(torch.from_numpy(some))
    assert tensor.dtype == torch.int64
    assert tensor.tolist() == buckets.reshape(-1).tolist()
    assert ((buckets >= 0) & (buckets < partition.buckets)).all()


@given(classes=st.integers(1, 5000), share=st.floats(0, 1), seed=seeds)
def test_permutation_buckets_differ_by_at_most_one(classes: int, share: float, seed: int) -> None:
    buckets = max(1, int(classes * share))
    partition = PermutationPartition(classes, buckets, seed)
    counts = np.bincount(partition.buckets_of(np.arange(classes)), minlength=buckets)
    assert counts.min() >= classes // buckets
    assert counts.max() <= -(-classes // buckets)


@both
@pytest.mark.parametrize(("classes", "buckets"), [(1, 1), (2, 2), (7, 3), (1000, 10), (4099, 512)])
def test_classes_of_inverts_buckets_of(kind: Kind, classes: int, buckets: int) -> None:
    partition = kind(classes, buckets, seed=5)
    of_class = partition.buckets_of(np.arange(classes))
    for bucket in range(buckets):
        members = partition.classes_of(bucket)
        assert members.dtype == np.int64
        assert np.array_equal(members, np.flatnonzero(of_class == bucket))


def test_hash_classes_beyond_one_scan_are_found() -> None:
    partition = HashPartition(2**20 + 5000, 1000, seed=1)
    found = np.concatenate([partition.classes_of(bucket) for bucket in (0, 999)])
    expected = partition.buckets_of(np.arange(2**20 + 5000))
    assert found.tolist() == [
        *np.flatnonzero(expected == 0).tolist(),
        *np.flatnonzero(expected == 999).tolist(),
    ]
    assert found.max() >= 2**20


def test_a_bucket_of_very_many_classes_is_listed_without_a_table() -> None:
    partition = PermutationPartition(2**40, 2**30, seed=9)
    members = partition.classes_of(12345)
    assert len(members) == 1024
    assert (np.diff(members) > 0).all()
    assert (partition.buckets_of(members) == 12345).all()


# Statistics: seeds are fixed, so each of these holds always or never.


@both
@pytest.mark.parametrize("classes", [10**6, 2**40])
@pytest.mark.parametrize("ids", ["consecutive", "random", "strided"])
def test_bucket_sizes_pass_chi_square(kind: Kind, classes: int, ids: str) -> None:
    some = some_classes(classes)[ids]
    scores = [
        deviations(np.bincount(kind(classes, 997, seed).buckets_of(some), minlength=997), mean)
        for seed in range(20)
        for mean in [len(some) / 997]
    ]
    assert max(scores) < 5
    # Sets that are a large part of all classes are spread more evenly than by
    # chance: drawn without replacement.
    evenness = 1 - len(some) / classes if kind is PermutationPartition else 1.0
    expected = (evenness - 1) * np.sqrt(996 / 2)
    assert abs(np.mean(scores) - expected) < 5 / np.sqrt(20)


@both
@pytest.mark.parametrize(
    ("classes", "buckets"),
    [(2, 2), (3, 2), (5, 2), (12, 4), (100, 7), (4096, 64), (10**6, 1000), (2**40, 128)],
)
def test_pairs_collide_at_the_stated_rate(kind: Kind, classes: int, buckets: int) -> None:
    generator = np.random.default_rng(buckets)
    near = generator.integers(0, classes - 1, 50)
    far = (near + generator.integers(1, classes, 50)) % classes
    for others in (near + 1, far):
        hits = 0
        for seed in range(1000):
            partition = kind(classes, buckets, derive_seed(seed, "rate"))
            hits += int((partition.buckets_of(near) == partition.buckets_of(others)).sum())
        chance = partition.collision_chance
        tries = 1000 * 50
        # Tiny sets repeat the same pairs, so their tries are fewer than they look.
        independent = 1000 * min(50, max(1, classes // 4))
        assert abs(hits / tries - chance) <= 5 * np.sqrt(chance * (1 - chance) / independent)


@both
def test_collision_chance_is_that_of_all_pairs(kind: Kind) -> None:
    rates = []
    for seed in range(300):
        partition = kind(50, 8, seed)
        counts = np.bincount(partition.buckets_of(np.arange(50)), minlength=8)
        rates.append((counts * (counts - 1)).sum() / (50 * 49))
    if kind is PermutationPartition:
        assert np.allclose(rates, partition.collision_chance, rtol=1e-12)
    else:
        assert abs(np.mean(rates) - partition.collision_chance) < 0.005


def test_collision_chance_of_even_buckets_is_the_published_one() -> None:
    assert PermutationPartition(1000, 10, 0).collision_chance == pytest.approx((100 - 1) / 999)
    assert PermutationPartition(7, 7, 0).collision_chance == 0.0
    assert PermutationPartition(1, 1, 0).collision_chance == 0.0
    assert HashPartition(1000, 10, 0).collision_chance == pytest.approx(0.1)


def worlds(kind: str, classes: int, buckets: int) -> list[Partition]:
    config = PartitionConfig(kind=kind, buckets=buckets)  # type: ignore[arg-type]
    return [partition_for(config, classes, seed=3, world=world) for world in range(6)]


@pytest.mark.parametrize("kind", ["permutation", "hash"])
@pytest.mark.parametrize("classes", [200_000, 2**40])
def test_two_worlds_joint_buckets_pass_chi_square(kind: str, classes: int) -> None:
    some = np.arange(200_000, dtype=np.int64)
    of_world = [world.buckets_of(some).astype(np.int64) for world in worlds(kind, classes, 31)]
    for i, one in enumerate(of_world):
        for other in of_world[:i]:
            joint = np.bincount(one * 31 + other, minlength=31 * 31).reshape(31, 31)
            expected = joint.sum(1)[:, None] * joint.sum(0)[None] / len(some)
            chi_square = (np.square(joint - expected) / expected).sum()
            assert abs(chi_square - 30 * 30) < 5 * np.sqrt(2 * 30 * 30)


@pytest.mark.parametrize("kind", ["permutation", "hash"])
def test_collisions_of_two_worlds_are_uncorrelated(kind: str) -> None:
    first = np.arange(200_000, dtype=np.int64)
    collide = []
    for world in worlds(kind, 400_000, 8):
        both_buckets = world.buckets_of(np.stack([first, first + 1]))
        collide.append(both_buckets[0] == both_buckets[1])
    correlation = np.atleast_2d(np.corrcoef(np.array(collide, dtype=np.float64)))
    assert np.abs(correlation[~np.eye(6, dtype=bool)]).max() < 5 / np.sqrt(200_000)


# Refusals and round trips


@both
@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_a_label_outside_is_named(kind: Kind, label: int) -> None:
    labels = np.array([[3, label], [-7, 9]])
    partition = kind(10, 3, 0)
    message = rf"expected class ids from 0 to 9, found {label};"
    with pytest.raises(DataError, match=message):
        partition.buckets_of(labels)
    with pytest.raises(DataError, match=message):
        partition.buckets_of(torch.from_numpy(labels))


@both
@pytest.mark.parametrize(("classes", "buckets"), [(0, 1), (2**62 + 1, 2), (4, 0), (4, 2**31)])
def test_impossible_sizes_are_refused(kind: Kind, classes: int, buckets: int) -> None:
    with pytest.raises(ConfigError, match="partition: expected 1 to"):
        kind(classes, buckets, 0)


@both
def test_to_dict_says_all_of_a_partition(kind: Kind) -> None:
    partition = kind(1000, 50, seed=2**63 + 1)
    again = Partition.from_dict(partition.to_dict())
    assert type(again) is kind
    some = np.arange(1000)
    assert np.array_equal(again.buckets_of(some), partition.buckets_of(some))
    assert again.to_dict() == partition.to_dict()


@pytest.mark.parametrize("kind", [PermutationPartition, HashPartition])
def test_classes_on_a_device_are_those_of_the_buckets(kind: type[Partition]) -> None:
    partition = kind(1003, 40, 5)
    buckets = np.array([3, 39, 0], np.int32)
    found = partition.classes_on_device(torch.from_numpy(buckets).long())
    wanted = np.concatenate([partition.classes_of(int(bucket)) for bucket in buckets])
    assert found.dtype == torch.int64
    assert sorted(found.tolist()) == sorted(wanted.tolist())
