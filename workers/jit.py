"""How the compiled kernels of this package are built: one decorator, one set of rules.

A kernel is serial and releases the GIL; threads come from `workers.threads.Pool`,
which hands out chunks of fixed size. So a result cannot depend on the number of
threads, and no second thread pool fights with Torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

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


def _prefetch_line(_: Any, array: Any, row: Any, column: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, arguments[0])
        word, int32 = ir.IntType(64), ir.IntType(32)
        address = builder.ptrtoint(place.data, word)
        strides = tools.unpack_tuple(builder, place.strides)
        for index, stride in zip(arguments[1:], strides, strict=True):
            wide = builder.sext(index, word) if index.type.width < word.width else index
            address = builder.add(address, builder.mul(wide, stride))
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, int32, int32, int32])
        function = tools.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To read, into all levels of the data cache.
        flags = int32(0), int32(3), int32(1)
        builder.call(function, [builder.inttoptr(address, pointer), *flags])
        return context.get_dummy_value()

    tools: Any = cgutils
    return types.void(array, row, column), generate


prefetch_line: Any = intrinsic(_prefetch_line)
"""In kernels: ask the CPU for the cache line of array[row, column], without waiting for it.

For rows in an order that no hardware guesses. Nothing is checked: a prefetch of an address
that is not there does nothing.
"""
