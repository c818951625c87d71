"""The one mixer and the one way to derive seeds: the same numbers on every platform."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from workers.jit import inline

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: the step between the states of splitmix64."""
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
"""The multipliers of splitmix64's finaliser."""

_MASK = 2**64 - 1
_M1, _M2 = np.uint64(MIX_1), np.uint64(MIX_2)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)


@overload
def mix64(x: int) -> int: ...
@overload
def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]: ...
def mix64(x: int | NDArray[np.uint64]) -> int | NDArray[np.uint64]:
    """Return the splitmix64 finaliser of `x`, a bijection on 64-bit words.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014, with the constants of Stafford's variant 13.

    Args:
        x: uint64 array of any shape, or an integer, taken modulo 2^64.
    """
    if isinstance(x, int):
        x &= _MASK
        x = ((x ^ (x >> 30)) * MIX_1) & _MASK
        x = ((x ^ (x >> 27)) * MIX_2) & _MASK
        return x ^ (x >> 31)
    x = (x ^ (x >> _S30)) * _M1
    x = (x ^ (x >> _S27)) * _M2
    return x ^ (x >> _S31)


@inline
def mix64_jit(x: np.uint64) -> np.uint64:
    """Return what `mix64` returns, inside compiled kernels."""
    x = (x ^ (x >> _S30)) * _M1
    x = (x ^ (x >> _S27)) * _M2
    return x ^ (x >> _S31)


def derive_seed(*parts: int | str) -> int:
    """Return a 64-bit seed that depends on every part, its type and its place.

    Each part is written as its type's letter, its length and its text, so that
    no two different lists of parts are encoded alike.
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        letter = b"s" if isinstance(part, str) else b"i"
        digest.update(letter + len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little")


@inline
def table_size(count: int) -> int:
    """Return the size of an open-addressing table for `count` ids: a power of two, half empty."""
    size = 2
    while size < 2 * count:
        size *= 2
    return size


@inline
def first_slot(identifier: Any, size: int) -> Any:
    """Return where in a table of `size` to look for an id first (Knuth, TAOCP 3, section 6.4)."""
    return (np.int64(identifier) * 0x9E3779B1 >> 7) & (size - 1)
