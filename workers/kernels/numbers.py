"""Numbers of the compiled kernels: bf16 as its bits, and an exponential that vectorises.

Matrices that are called `Numbers` hold float32, or bf16 as its bits (uint16), or int8 that is
only read, and one source serves all: arithmetic is in float32 in any case.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from workers.jit import inline

Numbers = NDArray[Any]
Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Offsets = NDArray[np.int64]

_LOG2E = np.float32(1.4426950408889634)
# Taylor coefficients of 2^x, good to 2 ulp of float32 on [-1/2, 1/2].
_C1, _C2, _C3, _C4, _C5, _C6 = (
    np.float32(c)
    for c in (
        0.6931471805599453,
        0.24022650695910072,
        0.05550410866482158,
        0.009618129107628477,
        0.0013333558146428443,
        0.00015403530393381608,
    )
)
ZERO, ONE = np.float32(0.0), np.float32(1.0)


@inline
def _widen(bits: Any) -> Any:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@inline
def _narrow(value: Any) -> Any:
    # To the nearest, ties to even, as the hardware does. Numba adds two uint32 to a uint64,
    # which would keep the loop around it from vectorising.
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(bits + np.uint32(odd + np.uint32(0x7FFF)))
    return np.uint16(np.uint32(rounded >> np.uint32(16)))


def load(value: Any) -> Any:
    """Return the float32 that a number of a matrix stands for."""
    raise AssertionError("for compiled code")


def as_stored(array: Any, value: Any) -> Any:
    """Return what `array` holds for a float32; a helper that stored it would not vectorise."""
    raise AssertionError("for compiled code")


@overload(load, inline="always")
def _load_impl(value: Any) -> Any:
    def wide(value: Any) -> Any:
        return _widen(value)

    def same(value: Any) -> Any:
        return value

    def whole(value: Any) -> Any:
        return np.float32(value)

    return {numba.types.uint16: wide, numba.types.int8: whole}.get(value, same)


@overload(as_stored, inline="always")
def _as_stored_impl(array: Any, value: Any) -> Any:
    def narrow(array: Any, value: Any) -> Any:
        return _narrow(value)

    def same(array: Any, value: Any) -> Any:
        return value

    return narrow if array.dtype == numba.types.uint16 else same


@inline
def exp(x: Any) -> Any:
    """Return e^x, 2^-126 at least: libm's is a call, around which no loop vectorises."""
    scaled = max(x * _LOG2E, np.float32(-126.0))
    whole = np.floor(scaled + np.float32(0.5))
    part = scaled - whole
    power = ONE + part * (
        _C1 + part * (_C2 + part * (_C3 + part * (_C4 + part * (_C5 + part * _C6))))
    )
    exponent = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23))
    return power * exponent.view(np.float32)
