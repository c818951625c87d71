"""How the compiled kernels of this package are built: one decorator, one set of rules.

A kernel is serial and releases the GIL; threads come from `workers.threads.Pool`,
which hands out chunks of fixed size. So a result cannot depend on the number of
threads, and no second thread pool fights with Torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be re-associated so that they vectorise: the order is then fixed when
# the kernel is compiled. Not-a-numbers and infinities keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def kernel(function: F) -> F:
    """Compile `function` with Numba on its first call: serial, without the GIL, cached."""
    compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)(function)
    return cast(F, compiled)


def exact_kernel(function: F) -> F:
    """Compile like `kernel`, with every sum in the order in which it is written.

    For results that a plain reference must equal to the last bit.
    """
    compiled = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return cast(F, compiled)


def inline(function: F) -> F:
    """Compile a small helper that kernels call, folded into its callers."""
    compiled = numba.njit(
        nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH, inline="always"
    )(function)
    return cast(F, compiled)
