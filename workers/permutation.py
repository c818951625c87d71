"""A seeded bijection on [0, n): for numpy, Numba and Torch, and its plain definition."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from workers.errors import ConfigError
from workers.hashing import GOLDEN, MIX_1, MIX_2, mix64
from workers.jit import inline, kernel

Ids = NDArray[np.int64]
Words = NDArray[np.uint64]

BLOCK = 256
"""Numbers that go through a round together in kernels: so many that it vectorises."""
_M1, _M2, _S32 = np.uint64(MIX_1), np.uint64(MIX_2), np.uint64(32)


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
        words, images = x.reshape(-1).view(np.uint64), out.reshape(-1).view(np.uint64)
        permute_words(words, self.n, self.bits, self.low_bits, self.keys, backward, images)
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


@inline
def _scramble_word(half: np.uint64, key: np.uint64) -> np.uint64:
    word = (half ^ key) * _M1
    return (word ^ (word >> _S32)) * _M2


def permute_torch(
    permutation: Permutation, x: torch.Tensor, *, backward: bool = False
) -> torch.Tensor:
    """Return what `permute_reference` returns, for an int64 tensor on any device."""
    low = permutation.low_bits
    high = permutation.bits - low
    rounds = [(i, signed(int(key))) for i, key in enumerate(permutation.keys)]
    outside = torch.ones_like(x, dtype=torch.bool)
    while bool(outside.any()):
        left, right = x >> low, x & ((1 << low) - 1)
        for i, key in reversed(rounds) if backward else rounds:
            if i % 2 == 0:
                left = left ^ shift_right(_scramble_torch(right, key), 64 - high)
            else:
                right = right ^ shift_right(_scramble_torch(left, key), 64 - low)
        x = torch.where(outside, left << low | right, x)
        outside = x >= permutation.n
    return x


def signed(word: int) -> int:
    """Return the int64 with the bits of an unsigned 64-bit word."""
    return word - 2**64 if word >= 2**63 else word


def shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Return int64 words shifted right as if they were unsigned."""
    # Torch shifts int64 arithmetically; the mask drops the copies of the sign.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _scramble_torch(half: torch.Tensor, key: int) -> torch.Tensor:
    words = (half ^ key) * signed(MIX_1)
    return (words ^ shift_right(words, 32)) * signed(MIX_2)


@kernel
def permute_words(
    words: Words, n: int, bits: int, low_bits: int, keys: Words, backward: bool, out: Words
) -> None:
    """Write what `Permutation.forward` returns for several numbers, in a kernel.

    Round after round, each for a whole block, so that a round is one loop that vectorises; those
    that land outside [0, n) go through again by themselves.

    Args:
        words: numbers in [0, n).
        n: of the permutation, as the others.
        bits: likewise.
        low_bits: likewise.
        keys: likewise.
        backward: write what `Permutation.inverse` returns.
        out: as many; may be `words`.
    """
    limit = np.uint64(n)
    block, places = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.int64)
    for start in range(0, len(words), BLOCK):
        size = min(BLOCK, len(words) - start)
        for j in range(size):
            block[j], places[j] = words[start + j], start + j
        while size:
            if backward:
                _rounds_backward(block[:size], bits, low_bits, keys)
            else:
                _rounds_forward(block[:size], bits, low_bits, keys)
            size = _outside(block, places, size, limit, out)


@kernel
def _rounds_forward(block: Words, bits: int, low_bits: int, keys: Words) -> None:
    low, mask = np.uint64(low_bits), (np.uint64(1) << np.uint64(low_bits)) - np.uint64(1)
    to_low, to_high = np.uint64(64 - low_bits), np.uint64(64 - bits + low_bits)
    for i in range(0, len(keys), 2):
        one, two = keys[i], keys[i + 1]
        for j in range(len(block)):
            left, right = block[j] >> low, block[j] & mask
            left ^= _scramble_word(right, one) >> to_high
            right ^= _scramble_word(left, two) >> to_low
            block[j] = (left << low) | right


@kernel
def _rounds_backward(block: Words, bits: int, low_bits: int, keys: Words) -> None:
    low, mask = np.uint64(low_bits), (np.uint64(1) << np.uint64(low_bits)) - np.uint64(1)
    to_low, to_high = np.uint64(64 - low_bits), np.uint64(64 - bits + low_bits)
    for i in range(len(keys) - 2, -1, -2):
        one, two = keys[i], keys[i + 1]
        for j in range(len(block)):
            left, right = block[j] >> low, block[j] & mask
            right ^= _scramble_word(left, two) >> to_low
            left ^= _scramble_word(right, one) >> to_high
            block[j] = (left << low) | right


@kernel
def _outside(block: Words, places: Ids, size: int, limit: np.uint64, out: Words) -> int:
    """Write a block's words to their places; move those outside the domain to its front."""
    outside = 0
    for j in range(size):
        word, place = block[j], places[j]
        out[place] = word
        block[outside], places[outside] = word, place
        outside += int(word >= limit)
    return outside
