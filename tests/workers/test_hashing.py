from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.hashing import GOLDEN, derive_seed, mix64, mix64_jit
from workers.jit import kernel

words = st.integers(0, 2**64 - 1)
parts = st.lists(st.integers() | st.text(), max_size=4)


@kernel
def mix_all(x: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    for i in range(len(x)):
        out[i] = mix64_jit(x[i])


def test_mix64_is_the_published_generator() -> None:
    # The first outputs of splitmix64 seeded with 0.
    first = [mix64(GOLDEN * i) for i in (1, 2, 3)]
    assert first == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(st.lists(words, min_size=1))
def test_mix64_is_the_same_for_integers_arrays_and_kernels(values: list[int]) -> None:
    array = np.array(values, dtype=np.uint64)
    compiled = np.empty_like(array)
    mix_all(array, compiled)
    expected = [mix64(value) for value in values]
    assert mix64(array).tolist() == expected
    assert compiled.tolist() == expected


def test_derive_seed_is_frozen() -> None:
    assert derive_seed() == 0xB4B2797457A0A6E4
    assert derive_seed(0) == 0xD1A1DE6D4AF84C4C
    assert derive_seed("0") == 0xE02AB6906452B86D
    assert derive_seed(0, 7, "partition") == 0x4306FE55B36A756D


@given(parts, parts)
def test_derive_seed_tells_all_parts_apart(one: list[int | str], other: list[int | str]) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


def test_derive_seed_keeps_the_borders_between_parts() -> None:
    seeds = {derive_seed(1, 23), derive_seed(12, 3), derive_seed(123), derive_seed("1", 23)}
    assert len(seeds | {derive_seed("1i", "2"), derive_seed("1", "i2")}) == 6
