from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.lsh.picking import pick
from workers.lsh.tables import Tables
from workers.threads import Pool


def votes_by_definition(tables: Tables, codes: np.ndarray) -> dict[int, int]:
    """Return how many of a row's tables name each neuron that any does."""
    votes: dict[int, int] = {}
    for mine, asked in zip(tables.codes, codes, strict=True):
        for code in asked:
            for neuron in np.flatnonzero(mine == code).tolist():
                votes[neuron] = votes.get(neuron, 0) + 1
    return votes


def random_tables(rng: np.random.Generator, tables: int, width: int, bits: int) -> Tables:
    with Pool(1) as pool:
        return Tables(rng.integers(0, 1 << bits, (tables, width)).astype(np.uint16), bits, pool)


def random_codes(
    rng: np.random.Generator, rows: int, tables: int, bits: int, probes: int
) -> np.ndarray:
    """Return (rows, tables, probes) codes, those of a table distinct."""
    probes = min(probes, 1 << bits)
    codes = [rng.permutation(1 << bits)[:probes] for _ in range(rows * tables)]
    return np.stack(codes).astype(np.uint16).reshape(rows, tables, -1)


@given(
    width=st.integers(2, 50),
    tables=st.integers(1, 5),
    bits=st.integers(1, 4),
    probes=st.integers(1, 3),
    rows=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_own_neurons_come_first_then_the_most_named_and_then_others(
    width: int, tables: int, bits: int, probes: int, rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    made = random_tables(rng, tables, width, bits)
    asked = random_codes(rng, rows, tables, bits, probes)
    sizes = rng.integers(0, 4, rows)
    own = np.concatenate([np.sort(rng.integers(0, width, size)) for size in sizes]).astype(np.int32)
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
    wanted = int(rng.integers(1, width + 1))
    room = max(wanted, 3)
    ids = np.full((rows, room), -1, np.int32)
    counts = np.zeros(rows, np.int32)
    inside = made.starts, made.sizes, made.neurons, width, wanted, offsets, own
    # The rows in two spans, as two threads would.
    for start, stop in ((0, rows // 2), (rows // 2, rows)):
        pick(start, stop, asked[start:stop], *inside, np.uint64(seed), ids, counts)
    for row in range(rows):
        mine = list(dict.fromkeys(own[offsets[row] : offsets[row + 1]].tolist()))
        votes = votes_by_definition(made, asked[row])
        others = sorted((votes[n] for n in votes if n not in mine), reverse=True)
        best = others[: max(0, wanted - len(mine))]
        sure = len(mine) + len(best)
        found = ids[row, : counts[row]].tolist()
        assert len(found) == len(set(found)) == max(wanted, len(mine))
        assert set(found) <= set(range(width))
        assert found[: len(mine)] == mine
        # Of equally many votes, any may be taken.
        assert sorted((votes[n] for n in found[len(mine) : sure]), reverse=True) == best


def test_a_row_has_the_same_neurons_whatever_is_beside_it() -> None:
    rng = np.random.default_rng(0)
    width, wanted, rows = 200, 30, 6
    made = random_tables(rng, 9, width, 5)
    codes = random_codes(rng, rows, 9, 5, 2)
    inside = made.starts, made.sizes, made.neurons, width, wanted
    nobody = np.zeros(rows + 1, np.int64), np.empty(0, np.int32)

    def picked(asked: np.ndarray, seed: int) -> list[set[int]]:
        ids, counts = np.empty((rows, wanted), np.int32), np.empty(rows, np.int32)
        pick(0, len(asked), asked, *inside, *nobody, np.uint64(seed), ids, counts)
        return [set(row.tolist()) for row in ids[: len(asked)]]

    together = picked(codes, 1)
    assert picked(codes[::-1], 1) == together[::-1]
    assert [picked(codes[[row]], 1)[0] for row in range(rows)] == together
    # Of those with equally many votes others are taken in another step.
    assert picked(codes, 2) != together


def test_what_no_table_names_is_random_and_each_as_often() -> None:
    width, wanted, rows = 20, 5, 400
    with Pool(1) as pool:
        tables = Tables(np.zeros((1, width), np.uint16), 9, pool)
    # Buckets that hold nobody.
    asked = np.arange(1, rows + 1, dtype=np.uint16).reshape(rows, 1, 1)
    inside = tables.starts, tables.sizes, tables.neurons, width, wanted
    nobody = np.zeros(rows + 1, np.int64), np.empty(0, np.int32)
    drawn = []
    for seed in range(2):
        ids, counts = np.empty((rows, wanted), np.int32), np.empty(rows, np.int32)
        pick(0, rows, asked, *inside, *nobody, np.uint64(seed), ids, counts)
        drawn.append(ids)
    assert not np.array_equal(drawn[0], drawn[1])
    often = np.bincount(np.concatenate(drawn).ravel(), minlength=width)
    # 200 of each are expected, with a standard deviation of 12.
    assert abs(often - 200).max() < 60
