"""Features left out at random: as many as asked for, the same ones again, the norm kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.batch import Batch
from workers.dropout import leave_features_out
from workers.hashing import GOLDEN, mix64

KEY = 0x0123456789ABCDEF


def batch_of(rows: list[dict[int, float]]) -> Batch:
    return Batch(
        feature_offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        feature_ids=np.array([item for row in rows for item in row], np.int32),
        feature_values=np.array([value for row in rows for value in row.values()], np.float32),
        label_offsets=np.zeros(len(rows) + 1, np.int64),
        labels=np.empty(0, np.int64),
    )


def rows_of(batch: Batch) -> list[dict[int, float]]:
    spans = zip(batch.feature_offsets, batch.feature_offsets[1:], strict=False)
    ids, values = batch.feature_ids.tolist(), batch.feature_values.tolist()
    return [dict(zip(ids[a:b], values[a:b], strict=True)) for a, b in spans]


def plain(
    rows: list[dict[int, float]], share: float, key: int, first: int
) -> list[dict[int, float]]:
    """Return what `leave_features_out` defines, row by row."""
    out = []
    for number, row in enumerate(rows, first):
        draw = mix64(key + number * GOLDEN)
        left = {item: value for item, value in row.items() if mix64(draw ^ item) >= share * 2**64}
        norms = [np.sqrt(sum(value**2 for value in part.values())) for part in (row, left)]
        scale = norms[0] / norms[1] if norms[1] else 0.0
        out.append({item: value * scale for item, value in left.items()})
    return out


rows_strategy = st.lists(
    st.dictionaries(st.integers(0, 2**31 - 1), st.floats(0.125, 8.0, width=32), max_size=12),
    max_size=8,
)


@given(rows_strategy, st.floats(0.0, 0.99), st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_it_is_the_plain_definition(
    rows: list[dict[int, float]], share: float, key: int, first: int
) -> None:
    found = rows_of(leave_features_out(batch_of(rows), share, key, first))
    wanted = plain(rows, share, key, first)
    assert [list(row) for row in found] == [list(row) for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert list(row.values()) == pytest.approx(list(other.values()), rel=1e-5)


@given(rows_strategy, st.integers(0, 8))
def test_a_row_does_not_depend_on_where_a_batch_is_cut(
    rows: list[dict[int, float]], cut: int
) -> None:
    whole = rows_of(leave_features_out(batch_of(rows), 0.5, KEY, 100))
    parts = [(rows[:cut], 100), (rows[cut:], 100 + len(rows[:cut]))]
    found = [rows_of(leave_features_out(batch_of(part), 0.5, KEY, at)) for part, at in parts]
    assert [*found[0], *found[1]] == whole


def test_without_dropout_a_batch_stays_what_it_is() -> None:
    batch = batch_of([{1: 1.0}])
    assert leave_features_out(batch, 0.0, KEY, 0) is batch


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_as_many_are_left_out_as_asked_for(share: float) -> None:
    def kept(key: int) -> NDArray[np.bool_]:
        rows = rows_of(leave_features_out(batch_of([ones] * 500), share, key, 0))
        return np.array([[item in row for item in ones] for row in rows])

    ones = dict.fromkeys(range(100), 0.1)
    first, second = kept(KEY), kept(KEY + 1)
    # Five standard deviations of 50,000 draws.
    slack = 5 * np.sqrt(share * (1 - share) / first.size)
    assert first.mean() == pytest.approx(1 - share, abs=slack)
    # Another block loses others: both keep a feature as often as chance lets them.
    assert (first & second).mean() == pytest.approx((1 - share) ** 2, abs=2 * slack)
    # Nor do rows, or features, go together.
    for means in (first.mean(axis=0), first.mean(axis=1)):
        assert 0.5 < means.var() / (share * (1 - share) / (first.size / means.size)) < 1.6
