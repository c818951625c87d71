from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.lsh.tables import Tables
from workers.threads import Pool


def contents(tables: Tables) -> list[list[list[int]]]:
    return [
        [table[start : start + size].tolist() for start, size in zip(starts, sizes, strict=False)]
        for table, starts, sizes in zip(tables.neurons, tables.starts, tables.sizes, strict=True)
    ]


def expected(codes: np.ndarray, bits: int) -> list[list[list[int]]]:
    return [[np.flatnonzero(row == code).tolist() for code in range(1 << bits)] for row in codes]


@given(
    neurons=st.integers(1, 60),
    tables=st.integers(1, 4),
    bits=st.integers(1, 5),
    crowd=st.sampled_from([1, 2, 32]),
    seed=st.integers(0, 1000),
)
def test_buckets_hold_the_neurons_of_their_code_in_order_wherever_they_move(
    neurons: int, tables: int, bits: int, crowd: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # With few codes all move into the same buckets, which are then full.
    most = min(1 << bits, crowd)
    codes = rng.integers(0, most, (tables, neurons)).astype(np.uint16)
    with Pool(2) as pool:
        made = Tables(codes.copy(), bits, pool)
        assert contents(made) == expected(codes, bits)
        for _ in range(4):
            moved = rng.permutation(neurons)[: rng.integers(0, neurons + 1)].astype(np.int32)
            others = rng.integers(0, most, (tables, len(moved))).astype(np.uint16)
            codes[:, moved] = others
            made.move(moved, others)
            assert np.array_equal(made.codes, codes)
            assert contents(made) == expected(codes, bits)
