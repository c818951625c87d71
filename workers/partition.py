"""Class to bucket and back, without a table.

A world's partition is a function of (K, B, seed): nothing to store, nothing to
keep in memory. `permutation` is balanced and invertible and the default;
`hash` needs no bound on the ids when it is used for open-ended ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from workers.config import PartitionConfig
from workers.errors import ConfigError, DataError
from workers.hashing import GOLDEN, MIX_1, MIX_2, derive_seed, mix64, mix64_jit
from workers.jit import kernel

Ids = NDArray[np.int64]
Buckets = NDArray[np.int32]
Words = NDArray[np.uint64]

_M1, _M2, _S32 = np.uint64(MIX_1), np.uint64(MIX_2), np.uint64(32)
_SCAN = 1 << 20


def _rounds(bits: int) -> int:
    # A round brings a pair of numbers 2^(bits / 4) times nearer to a uniform pair, so
    # small domains need more rounds.
    return 8 if bits >= 12 else 24


class Permutation:
    """A seeded pseudo-random bijection on [0, n).

    An alternating Feistel network on the smallest domain 2^b that holds n
    (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002):
    what lands outside [0, n) is sent through again (cycle walking), less than
    once on average for n > 32.

    Args:
        n: size of the domain, 1 to 2^62.
        seed: 64-bit seed.

    Raises:
        ConfigError: if n is out of range.
    """

    def __init__(self, n: int, seed: int) -> None:
        if not 1 <= n <= 2**62:
            raise ConfigError(f"permutation: expected a domain of 1 to 2^62 numbers, found {n:,}")
        self.n = n
        self.seed = seed
        # Halves of fewer than 3 bits would need still more rounds than small domains get.
        self.bits = max(6, (n - 1).bit_length())
        self.low_bits = self.bits // 2
        self.keys: Words = np.array(
            [mix64(seed + GOLDEN * (i + 1)) for i in range(_rounds(self.bits))], dtype=np.uint64
        )

    @overload
    def forward(self, x: Ids) -> Ids: ...
    @overload
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...
    def forward(self, x: Ids | torch.Tensor) -> Ids | torch.Tensor:
        """Return the images of `x` (int64 in [0, n), any shape), same type and shape."""
        return self._apply(x, backward=False)

    @overload
    def inverse(self, x: Ids) -> Ids: ...
    @overload
    def inverse(self, x: torch.Tensor) -> torch.Tensor: ...
    def inverse(self, x: Ids | torch.Tensor) -> Ids | torch.Tensor:
        """Return the numbers whose images are `x` (int64 in [0, n)), same type and shape."""
        return self._apply(x, backward=True)

    def _apply(self, x: Ids | torch.Tensor, *, backward: bool) -> Ids | torch.Tensor:
        if isinstance(x, torch.Tensor):
            return permute_torch(self, x, backward=backward)
        x = np.ascontiguousarray(x, dtype=np.int64)
        out = np.empty_like(x)
        run = _inverses if backward else _forwards
        run(x.reshape(-1), self.n, self.bits, self.low_bits, self.keys, out.reshape(-1))
        return out


def permute_reference(permutation: Permutation, x: Ids, *, backward: bool = False) -> Ids:
    """Return `permutation.forward(x)`, or `.inverse(x)` if `backward`: the plain definition."""
    low = permutation.low_bits
    high = permutation.bits - low
    rounds = list(enumerate(permutation.keys))
    words = x.astype(np.uint64)
    outside = np.ones(x.shape, dtype=bool)
    while outside.any():
        left, right = words[outside] >> np.uint64(low), words[outside] & np.uint64((1 << low) - 1)
        for i, key in reversed(rounds) if backward else rounds:
            if i % 2 == 0:
                left ^= _scramble(right, key) >> np.uint64(64 - high)
            else:
                right ^= _scramble(left, key) >> np.uint64(64 - low)
        words[outside] = left << np.uint64(low) | right
        outside = words >= permutation.n
    return words.astype(np.int64)


def _scramble(half: Words, key: np.uint64) -> Words:
    words = (half ^ key) * _M1
    return (words ^ (words >> _S32)) * _M2


def permute_torch(
    permutation: Permutation, x: torch.Tensor, *, backward: bool = False
) -> torch.Tensor:
    """Return what `permute_reference` returns, for an int64 tensor on any device."""
    low = permutation.low_bits
    high = permutation.bits - low
    rounds = [(i, _signed(int(key))) for i, key in enumerate(permutation.keys)]
    outside = torch.ones_like(x, dtype=torch.bool)
    while bool(outside.any()):
        left, right = x >> low, x & ((1 << low) - 1)
        for i, key in reversed(rounds) if backward else rounds:
            if i % 2 == 0:
                left = left ^ _shift_right(_scramble_torch(right, key), 64 - high)
            else:
                right = right ^ _shift_right(_scramble_torch(left, key), 64 - low)
        x = torch.where(outside, left << low | right, x)
        outside = x >= permutation.n
    return x


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    # Torch shifts int64 arithmetically; the mask drops the copies of the sign.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _scramble_torch(half: torch.Tensor, key: int) -> torch.Tensor:
    words = (half ^ key) * _signed(MIX_1)
    return (words ^ _shift_right(words, 32)) * _signed(MIX_2)


def _mix64_torch(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(MIX_1)
    x = (x ^ _shift_right(x, 27)) * _signed(MIX_2)
    return x ^ _shift_right(x, 31)


@kernel
def _forward(word: np.uint64, n: np.uint64, bits: int, low_bits: int, keys: Words) -> np.uint64:
    low = np.uint64(low_bits)
    to_low, to_high = np.uint64(64 - low_bits), np.uint64(64 - bits + low_bits)
    mask = (np.uint64(1) << low) - np.uint64(1)
    while True:
        left, right = word >> low, word & mask
        for i in range(0, len(keys), 2):
            mixed = (right ^ keys[i]) * _M1
            left ^= ((mixed ^ (mixed >> _S32)) * _M2) >> to_high
            mixed = (left ^ keys[i + 1]) * _M1
            right ^= ((mixed ^ (mixed >> _S32)) * _M2) >> to_low
        word = (left << low) | right
        if word < n:
            return word


@kernel
def _inverse(word: np.uint64, n: np.uint64, bits: int, low_bits: int, keys: Words) -> np.uint64:
    low = np.uint64(low_bits)
    to_low, to_high = np.uint64(64 - low_bits), np.uint64(64 - bits + low_bits)
    mask = (np.uint64(1) << low) - np.uint64(1)
    while True:
        left, right = word >> low, word & mask
        for i in range(len(keys) - 2, -1, -2):
            mixed = (left ^ keys[i + 1]) * _M1
            right ^= ((mixed ^ (mixed >> _S32)) * _M2) >> to_low
            mixed = (right ^ keys[i]) * _M1
            left ^= ((mixed ^ (mixed >> _S32)) * _M2) >> to_high
        word = (left << low) | right
        if word < n:
            return word


@kernel
def _forwards(x: Ids, n: int, bits: int, low_bits: int, keys: Words, out: Ids) -> None:
    for i in range(len(x)):
        out[i] = np.int64(_forward(np.uint64(x[i]), np.uint64(n), bits, low_bits, keys))


@kernel
def _inverses(x: Ids, n: int, bits: int, low_bits: int, keys: Words, out: Ids) -> None:
    for i in range(len(x)):
        out[i] = np.int64(_inverse(np.uint64(x[i]), np.uint64(n), bits, low_bits, keys))


@kernel
def _permutation_buckets(
    x: Ids, n: int, bits: int, low_bits: int, keys: Words, buckets: int, out: Buckets
) -> int:
    """Fill `out`; return the place of the first class outside [0, n), or -1."""
    for i in range(len(x)):
        if x[i] < 0 or x[i] >= n:
            return i
        image = _forward(np.uint64(x[i]), np.uint64(n), bits, low_bits, keys)
        out[i] = np.int32(image % np.uint64(buckets))
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

    def __init__(self, classes: int, buckets: int, seed: int) -> None:
        super().__init__(classes, buckets, seed)
        self.key = mix64(seed + GOLDEN)

    def _fill(self, classes: Ids, out: Buckets) -> int:
        return _hash_buckets(classes, self.classes, np.uint64(self.key), self.buckets, out)

    def _buckets_torch(self, classes: torch.Tensor) -> torch.Tensor:
        mixed = _mix64_torch(classes ^ _signed(self.key))
        return (_shift_right(mixed, 32) * self.buckets) >> 32

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


def partition_for(config: PartitionConfig, classes: int, seed: int, world: int) -> Partition:
    """Return the partition of `classes` classes that world `world` of a run with `seed` uses."""
    return _KINDS[config.kind](classes, config.buckets, derive_seed(seed, world, "partition"))
