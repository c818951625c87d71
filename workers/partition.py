"""Class to bucket and back, without a table.

A world's partition is a function of (K, B, seed): nothing to store, nothing to
keep in memory. `permutation` is balanced and invertible and the default;
`hash` needs no bound on the ids when it is used for open-ended ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from workers.config import PartitionConfig
from workers.errors import ConfigError, DataError
from workers.hashing import GOLDEN, MIX_1, MIX_2, derive_seed, mix64, mix64_jit
from workers.jit import kernel
from workers.permutation import (
    BLOCK,
    Permutation,
    Words,
    permute_words,
    shift_right,
    signed,
)

Ids = NDArray[np.int64]
Buckets = NDArray[np.int32]
_M1, _M2, _S32 = np.uint64(MIX_1), np.uint64(MIX_2), np.uint64(32)
_SCAN = 1 << 20


def _mix64_torch(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ shift_right(x, 30)) * signed(MIX_1)
    x = (x ^ shift_right(x, 27)) * signed(MIX_2)
    return x ^ shift_right(x, 31)


@kernel
def _permutation_buckets(
    x: Ids, n: int, bits: int, low_bits: int, keys: Words, buckets: int, out: Buckets
) -> int:
    """Fill `out`; return the place of the first class outside [0, n), or -1."""
    images = np.empty(BLOCK, np.uint64)
    for start in range(0, len(x), BLOCK):
        size = min(BLOCK, len(x) - start)
        for i in range(size):
            if x[start + i] < 0 or x[start + i] >= n:
                return start + i
            images[i] = np.uint64(x[start + i])
        permute_words(images[:size], n, bits, low_bits, keys, False, images)
        for i in range(size):
            out[start + i] = np.int32(images[i] % np.uint64(buckets))
    return -1


@kernel
def _hash_buckets(x: Ids, n: int, key: np.uint64, buckets: int, out: Buckets) -> int:
    """Fill `out`; return the place of the first class outside [0, n), or -1."""
    for i in range(len(x)):
        if x[i] < 0 or x[i] >= n:
            return i
        mixed = mix64_jit(np.uint64(x[i]) ^ key)
        out[i] = np.int32(((mixed >> _S32) * np.uint64(buckets)) >> _S32)
    return -1


class Partition(ABC):
    """One world's map from K classes to B buckets.

    Args:
        classes: K, 1 to 2^62.
        buckets: B, 1 to 2^31 - 1.
        seed: 64-bit seed.

    Raises:
        ConfigError: if K or B is out of range.
    """

    kind: ClassVar[str]
    invertible: ClassVar[bool]
    """Whether the classes of a bucket are found without a look at all of them."""

    def __init__(self, classes: int, buckets: int, seed: int) -> None:
        if not 1 <= classes <= 2**62:
            raise ConfigError(f"partition: expected 1 to 2^62 classes, found {classes:,}")
        if not 1 <= buckets < 2**31:
            raise ConfigError(f"partition: expected 1 to 2^31 - 1 buckets, found {buckets:,}")
        self.classes = classes
        self.buckets = buckets
        self.seed = seed

    @overload
    def buckets_of(self, classes: Ids) -> Buckets: ...
    @overload
    def buckets_of(self, classes: torch.Tensor) -> torch.Tensor: ...
    def buckets_of(self, classes: Ids | torch.Tensor) -> Buckets | torch.Tensor:
        """Return each class's bucket in [0, B).

        Args:
            classes: int64 array of any shape, or int64 tensor on any device.

        Returns:
            int32 array, or int64 tensor on the same device, of the same shape.

        Raises:
            DataError: if a class is outside [0, K); names the first such.
        """
        if isinstance(classes, torch.Tensor):
            outside = (classes < 0) | (classes >= self.classes)
            if bool(outside.any()):
                raise self._unknown(int(classes[outside][0]))
            return self._buckets_torch(classes)
        flat = np.ascontiguousarray(classes, dtype=np.int64).reshape(-1)
        out = np.empty(len(flat), dtype=np.int32)
        if (place := self._fill(flat, out)) >= 0:
            raise self._unknown(int(flat[place]))
        return out.reshape(np.shape(classes))

    def _unknown(self, label: int) -> DataError:
        return DataError(
            f"labels: expected class ids from 0 to {self.classes - 1:,}, found {label};"
            " number the classes from 0 or set data.classes to the largest id plus one"
        )

    @abstractmethod
    def _fill(self, classes: Ids, out: Buckets) -> int:
        """Fill `out` with buckets; return the place of the first unknown class, or -1."""

    @abstractmethod
    def _buckets_torch(self, classes: torch.Tensor) -> torch.Tensor:
        """Return the buckets of known classes as an int64 tensor."""

    @abstractmethod
    def classes_of(self, bucket: int) -> Ids:
        """Return the classes in `bucket`, int64, ascending."""

    def classes_on_device(self, buckets: torch.Tensor) -> torch.Tensor:
        """Return the classes of several buckets, int64 in any order, on the buckets' device.

        Args:
            buckets: distinct numbers in [0, B), int64.
        """
        found = [np.empty(0, np.int64), *map(self.classes_of, buckets.tolist())]
        return torch.from_numpy(np.concatenate(found)).to(buckets.device)

    @property
    @abstractmethod
    def collision_chance(self) -> float:
        """The chance q that two distinct classes share a bucket."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that say all of this partition."""
        return {
            "kind": self.kind,
            "classes": self.classes,
            "buckets": self.buckets,
            "seed": self.seed,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Partition:
        """Return the partition that `to_dict` described."""
        return _KINDS[values["kind"]](values["classes"], values["buckets"], values["seed"])


class PermutationPartition(Partition):
    """bucket = π(class) mod B for a seeded permutation π: sizes differ by at most one."""

    kind = "permutation"
    invertible = True

    def __init__(self, classes: int, buckets: int, seed: int) -> None:
        super().__init__(classes, buckets, seed)
        self.permutation = Permutation(classes, seed)

    def _fill(self, classes: Ids, out: Buckets) -> int:
        p = self.permutation
        return _permutation_buckets(classes, p.n, p.bits, p.low_bits, p.keys, self.buckets, out)

    def _buckets_torch(self, classes: torch.Tensor) -> torch.Tensor:
        return self.permutation.forward(classes) % self.buckets

    def classes_of(self, bucket: int) -> Ids:
        """Return the classes in `bucket`, int64, ascending; takes time in proportion to them."""
        images = np.arange(bucket, self.classes, self.buckets, dtype=np.int64)
        return np.sort(self.permutation.inverse(images))

    def classes_on_device(self, buckets: torch.Tensor) -> torch.Tensor:
        """See `Partition.classes_on_device`; nothing leaves the device."""
        images = buckets[:, None] + torch.arange(
            0, self.classes, self.buckets, device=buckets.device
        )
        return self.permutation.inverse(images[images < self.classes])

    @property
    def collision_chance(self) -> float:
        """The chance that two distinct classes share a bucket: (K/B - 1)/(K - 1) if B divides K."""
        if self.classes < 2:
            return 0.0
        small, larger = divmod(self.classes, self.buckets)
        pairs = larger * (small + 1) * small + (self.buckets - larger) * small * (small - 1)
        return pairs / (self.classes * (self.classes - 1))


class HashPartition(Partition):
    """bucket = multiply-shift of a seeded 64-bit mixer: sizes vary as if drawn at random."""

    kind = "hash"
    invertible = False

    def __init__(self, classes: int, buckets: int, seed: int) -> None:
        super().__init__(classes, buckets, seed)
        self.key = mix64(seed + GOLDEN)

    def _fill(self, classes: Ids, out: Buckets) -> int:
        return _hash_buckets(classes, self.classes, np.uint64(self.key), self.buckets, out)

    def _buckets_torch(self, classes: torch.Tensor) -> torch.Tensor:
        mixed = _mix64_torch(classes ^ signed(self.key))
        return (shift_right(mixed, 32) * self.buckets) >> 32

    def classes_of(self, bucket: int) -> Ids:
        """Return the classes in `bucket`, int64, ascending; looks at all K classes."""
        found = [
            start + np.flatnonzero(self.buckets_of(np.arange(start, stop)) == bucket)
            for start in range(0, self.classes, _SCAN)
            for stop in [min(start + _SCAN, self.classes)]
        ]
        return np.concatenate(found).astype(np.int64, copy=False)

    @property
    def collision_chance(self) -> float:
        """The chance that two distinct classes share a bucket: 1/B."""
        return 1.0 / self.buckets


_KINDS: dict[str, type[Partition]] = {
    kind.kind: kind for kind in (PermutationPartition, HashPartition)
}


@dataclass(frozen=True)
class PackedPermutations:
    """The permutations of several partitions of the same K and B, as kernels take them."""

    classes: int
    buckets: int
    bits: int
    low_bits: int
    keys: Words
    """(R, rounds) uint64."""


def packed(partitions: Sequence[Partition]) -> PackedPermutations | None:
    """Return the permutations of partitions; None if one of them is not made by a permutation."""
    keys = [p.permutation.keys for p in partitions if isinstance(p, PermutationPartition)]
    if len(keys) < len(partitions):
        return None
    first = partitions[0]
    assert isinstance(first, PermutationPartition)
    bits = first.permutation.bits, first.permutation.low_bits
    return PackedPermutations(first.classes, first.buckets, *bits, np.stack(keys))


def partition_for(config: PartitionConfig, classes: int, seed: int, world: int) -> Partition:
    """Return the partition of `classes` classes that world `world` of a run with `seed` uses."""
    return _KINDS[config.kind](classes, config.buckets, derive_seed(seed, world, "partition"))
