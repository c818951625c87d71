from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.lsh.codes import (
    BORROWED,
    EXTRA,
    FAMILIES,
    WIDEST,
    WINDOW,
    Codes,
    Family,
    hash_signs,
    hash_winners,
)
from workers.lsh.vectors import mean_of, products, squared_lengths

Floats = NDArray[np.float32]
Said = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], Floats]


def dense(vectors: Floats) -> Said:
    """Return vectors as kernels take them, all coordinates said."""
    rows, width = vectors.shape
    begins = np.arange(rows, dtype=np.int64) * width
    counts = np.full(rows, width, np.int32)
    return begins, counts, np.empty(0, np.int32), vectors.reshape(-1)


def sparse(vectors: Floats) -> Said:
    """Return vectors as kernels take them, only what is not zero said."""
    rows, ids = np.nonzero(vectors)
    counts = np.bincount(rows, minlength=len(vectors)).astype(np.int32)
    begins = np.cumsum(counts) - counts
    return begins.astype(np.int64), counts, ids.astype(np.int32), vectors[rows, ids]


def signs_by_definition(family: Family, full: Floats, probes: int) -> Codes:
    """Return the codes of vectors that have their extra coordinates and are centred."""
    transform = family.flips.shape[1]
    folded = np.zeros((len(full), transform))
    for c in range(full.shape[1]):
        folded[:, family.folds[c]] += family.fold_signs[c] * full[:, c].astype(np.float64)
    matrix: NDArray[np.float64] = np.ones((1, 1))
    while len(matrix) < transform:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    projections = np.concatenate([(folded * flips) @ matrix for flips in family.flips], axis=1)
    out = np.empty((len(full), family.tables, probes), np.uint16)
    for row in range(len(full)):
        for table in range(family.tables):
            mine = projections[row, table * family.bits : (table + 1) * family.bits]
            code = sum(int(value > 0) << i for i, value in enumerate(mine))
            order = np.argsort(np.abs(mine), kind="stable")[: probes - 1]
            out[row, table] = [code, *(code ^ (1 << int(i)) for i in order)]
    return out


@given(
    width=st.sampled_from([1, 5, 16, 40, WIDEST + 7]),
    rows=st.integers(1, 40),
    tables=st.integers(1, 5),
    bits=st.integers(1, 9),
    probes=st.integers(1, 3),
    some=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_signs_are_those_of_hadamard_transforms(
    width: int, rows: int, tables: int, bits: int, probes: int, some: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    family = FAMILIES["signs"](width, tables=tables, bits=bits, seed=seed)
    # Whole numbers, so that no order of adding rounds.
    vectors = rng.integers(-9, 10, (rows, width)).astype(np.float32) * 2
    extra = rng.integers(-9, 10, (rows, EXTRA)).astype(np.float32) * 2
    centre = rng.integers(-3, 4, width + EXTRA).astype(np.float32) * 2
    if some:
        vectors[:, ::2] = 0
    full = np.concatenate([vectors, extra], axis=1) - centre
    out = np.empty((rows, tables, min(probes, bits + 1)), np.uint16)
    how = family.folds, family.fold_signs, family.flips, bits
    said = sparse(vectors) if some else dense(vectors)
    additions = hash_signs(*said, extra, centre, *how, out)
    assert np.array_equal(out, signs_by_definition(family, full, out.shape[2]))
    assert additions > rows * family.flips.size


def winners_by_definition(family: Family, full: Floats, centre: Floats, probes: int) -> Codes:
    digits = family.bits // 3
    out = np.empty((len(full), family.tables, probes), np.uint16)
    for row, vector in enumerate(full):
        values = (vector - centre)[family.windows]
        order = np.argsort(-values, axis=1, kind="stable")[:, :2]
        margins = np.take_along_axis(values, order[:, :1], 1) - np.take_along_axis(
            values, order[:, 1:], 1
        )
        empty = (vector[family.windows] == 0).all(1)
        found = [(*order[i], margins[i, 0]) for i in range(len(values))]
        for window in np.flatnonzero(empty):
            place = int(window)
            for _ in range(BORROWED):
                place = (place * 6364136223846793005 + 1442695040888963407) % 2**64
                other = (place >> 33) % len(values)
                if not empty[other]:
                    found[window] = (*order[other], margins[other, 0])
                    break
        for table in range(family.tables):
            mine = found[table * digits : (table + 1) * digits]
            code = sum(int(best) << (3 * i) for i, (best, _, _) in enumerate(mine))
            changes = sorted(range(digits), key=lambda i: mine[i][2])[: probes - 1]
            out[row, table] = [
                code,
                *(code ^ ((int(mine[i][0]) ^ int(mine[i][1])) << (3 * i)) for i in changes),
            ]
    return out


@given(
    width=st.sampled_from([1, 5, 8, 16, 200]),
    rows=st.integers(1, 8),
    tables=st.integers(1, 5),
    digits=st.integers(1, 4),
    probes=st.integers(1, 3),
    kept=st.sampled_from([0.02, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_winners_are_the_highest_of_windows_or_borrowed(
    width: int, rows: int, tables: int, digits: int, probes: int, kept: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    family = FAMILIES["winners"](width, tables=tables, bits=3 * digits, seed=seed)
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    vectors[rng.random((rows, width)) >= kept] = 0
    extra = np.ones((rows, EXTRA), np.float32)
    centre = rng.normal(size=width + EXTRA).astype(np.float32)
    out = np.empty((rows, tables, min(probes, digits + 1)), np.uint16)
    additions = hash_winners(*sparse(vectors), extra, centre, family.windows, 3 * digits, out)
    assert np.array_equal(out, winners_by_definition(family, vectors, centre[:width], out.shape[2]))
    assert additions > rows * tables * digits * WINDOW
    again = np.empty_like(out)
    hash_winners(*dense(vectors), extra, centre, family.windows, 3 * digits, again)
    assert np.array_equal(again, out)


@pytest.mark.parametrize("name", FAMILIES)
def test_near_vectors_share_more_codes(name: str) -> None:
    rng = np.random.default_rng(0)
    width, tables, pairs = 128, 100, 30
    queries = rng.normal(size=(pairs, width))
    others = [queries + far * rng.normal(size=queries.shape) for far in (0.5, 2, 9)]
    vectors = np.concatenate([queries, *others]).astype(np.float32)
    family = FAMILIES[name](width, tables=tables, bits=6, seed=3)
    said = *dense(vectors), np.zeros((len(vectors), EXTRA), np.float32)
    out = np.empty((len(vectors), tables, 1), np.uint16)
    centre = np.zeros(width + EXTRA, np.float32)
    if name == "signs":
        hash_signs(*said, centre, family.folds, family.fold_signs, family.flips, 6, out)
    else:
        hash_winners(*said, centre, family.windows, 6, out)
    codes = out.reshape(4, pairs, tables)
    shared = (codes[1:] == codes[0]).sum((1, 2))
    assert shared[0] > 2 * shared[1] > 3 * shared[2]


def test_lengths_are_those_of_centred_vectors() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 9)).astype(np.float32)
    vectors[:, ::2] = 0
    extra = rng.normal(size=(5, EXTRA)).astype(np.float32)
    centre = rng.normal(size=9 + EXTRA).astype(np.float32)
    out = np.empty(5, np.float32)
    squared_lengths(*dense(vectors), extra, centre, out)
    with_bias = np.concatenate([vectors - centre[:9], extra[:, :1] - centre[9]], axis=1)
    assert np.allclose(out, np.square(with_bias).sum(1), rtol=1e-5)
    centre[:9:2] = 0
    squared_lengths(*sparse(vectors), extra, centre, out)
    with_bias = np.concatenate([vectors - centre[:9], extra[:, :1] - centre[9]], axis=1)
    assert np.allclose(out, np.square(with_bias).sum(1), rtol=1e-5)


@pytest.mark.parametrize("make", [dense, sparse])
def test_means_and_products_are_those_of_vectors(make: Callable[[Floats], Said]) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 9)).astype(np.float32)
    vectors[:, ::2] = 0
    mean = np.empty(9, np.float32)
    mean_of(*make(vectors), mean)
    assert np.allclose(mean, vectors.mean(0), rtol=1e-6)
    other, sums = rng.normal(size=9).astype(np.float32), np.ones(6, np.float32)
    said = make(vectors)
    assert products(*said, other, sums) == said[1].sum()
    assert np.allclose(sums, 1 + vectors @ other, rtol=1e-5)
