from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.lsh.picking import pick
from workers.lsh.tables import Tables
from workers.threads import Pool


def named_by_definition(
    tables: Tables, codes: np.ndarray, own: list[int], named: int
) -> tuple[list[int], int]:
    """Return a row's own neurons and those that tables name, and how many there are."""
    votes: dict[int, int] = {}
    for mine, asked in zip(tables.codes, codes, strict=True):
        for code in asked:
            for neuron in np.flatnonzero(mine == code).tolist():
                votes[neuron] = votes.get(neuron, 0) + 1
    sure = list(dict.fromkeys(own))
    others = [neuron for neuron in votes if neuron not in sure]
    # Of equally many votes, those that were found first.
    ranked = sorted(others, key=lambda neuron: -votes[neuron])
    sure += ranked[: max(0, named - len(sure))]
    return sure, sum(votes.values())


@given(
    width=st.integers(2, 50),
    tables=st.integers(1, 5),
    bits=st.integers(1, 4),
    probes=st.integers(1, 3),
    rows=st.integers(1, 9),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_own_neurons_come_first_then_the_most_named_and_then_random_ones(
    width: int, tables: int, bits: int, probes: int, rows: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    with Pool(1) as pool:
        made = Tables(rng.integers(0, 1 << bits, (tables, width)).astype(np.uint16), bits, pool)
    asked = np.stack(
        [
            rng.permutation(1 << bits)[: min(probes, 1 << bits)].astype(np.uint16)
            for _ in range(rows * tables)
        ]
    ).reshape(rows, tables, -1)
    sizes = rng.integers(0, 4, rows)
    own = np.concatenate([np.sort(rng.integers(0, width, size)) for size in sizes]).astype(np.int32)
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
    wanted = int(rng.integers(1, width + 1))
    named = round(share * wanted)
    room = max(wanted, 3)
    ids, odds = np.full((rows, room), -1, np.int32), np.zeros((rows, room), np.float32)
    counts = np.zeros(rows, np.int32)
    inside = made.starts, made.sizes, made.neurons, width, named, wanted, offsets, own
    # The rows in two spans, as two threads would.
    for start, stop in ((0, rows // 2), (rows // 2, rows)):
        pick(start, stop, asked[start:stop], *inside, np.uint64(seed), ids, counts, odds)
    for row in range(rows):
        mine = own[offsets[row] : offsets[row + 1]].tolist()
        sure, _ = named_by_definition(made, asked[row], mine, named)
        found = ids[row, : counts[row]].tolist()
        assert len(found) == len(set(found)) == max(wanted, len(dict.fromkeys(mine)))
        assert set(found) <= set(range(width))
        # What is named comes in the order in which it was found.
        assert set(found[: len(sure)]) == set(sure)
        assert found[: len(dict.fromkeys(mine))] == list(dict.fromkeys(mine))
        assert (odds[row, : len(sure)] == 1).all()
        drawn = odds[row, len(sure) : counts[row]]
        assert not len(drawn) or np.isclose(drawn.sum(), width - len(sure), rtol=1e-5)


def test_what_is_drawn_is_another_in_each_step_and_each_as_often() -> None:
    width, wanted, rows = 20, 5, 400
    with Pool(1) as pool:
        tables = Tables(np.zeros((1, width), np.uint16), 1, pool)
    # A bucket that holds nobody.
    asked = np.ones((rows, 1, 1), np.uint16)
    inside = tables.starts, tables.sizes, tables.neurons, width, 0, wanted
    nobody = np.zeros(rows + 1, np.int64), np.empty(0, np.int32)
    drawn = []
    for seed in range(2):
        ids, counts = np.empty((rows, wanted), np.int32), np.empty(rows, np.int32)
        odds = np.empty((rows, wanted), np.float32)
        pick(0, rows, asked, *inside, *nobody, np.uint64(seed), ids, counts, odds)
        assert (odds == width / wanted).all()
        drawn.append(ids)
    assert not np.array_equal(drawn[0], drawn[1])
    often = np.bincount(np.concatenate(drawn).ravel(), minlength=width)
    # 200 of each are expected, with a standard deviation of 12.
    assert abs(often - 200).max() < 60
