"""What tells queries and names apart: 128 bits of each, the same on every machine.

Queries are the same where the model sees them so: in Unicode's NFKC, in lower case, with single
spaces; and features in any order. At 10^9 of them the chance that any two different ones have the
same key is below 10^-20.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.features import utf8_of
from workers.hashing import GOLDEN, mix64_jit
from workers.jit import kernel

Words = NDArray[np.uint64]

_FIRST, _SECOND = np.uint64(0xCBF29CE484222325), np.uint64(0x6C62272E07BB0142)
_STEP_1, _STEP_2 = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C55)
_GOLDEN = np.uint64(GOLDEN)


class Keys(NamedTuple):
    """Of n things."""

    high: Words
    """(n,)."""
    low: Words
    """(n,)."""

    def parts(self, count: int) -> NDArray[np.int64]:
        """Return which of so many parts each thing is in."""
        return (self.high % np.uint64(count)).astype(np.int64)


def text_keys(texts: pa.Array) -> Keys:
    """Return the keys of texts as they are."""
    return Keys(*_hash(*utf8_of(texts.cast(pa.large_string()))))


def query_keys(
    table: pa.Table, text: tuple[str, ...], indices: str | None = None, values: str | None = None
) -> Keys:
    """Return the keys of rows' queries.

    Args:
        table: of the rows.
        text: its columns of text.
        indices: its column of feature ids.
        values: its column of their values.
    """
    high, low = (np.zeros(table.num_rows, np.uint64) for _ in range(2))
    for name in text:
        _join(high, low, *text_keys(_as_seen(table.column(name).combine_chunks())))
    if indices:
        lists = table.column(indices).combine_chunks()
        offsets = lists.offsets.to_numpy().astype(np.int64)
        columns = [lists.flatten().to_numpy()]
        if values:
            # Zero has two signs.
            columns.append(table.column(values).combine_chunks().flatten().to_numpy() + 0.0)
        for flat in _in_order(offsets, columns):
            _join(high, low, *_list_keys(offsets - offsets[0], flat))
    return Keys(high, low)


def _in_order(
    offsets: NDArray[np.int64], columns: list[NDArray[np.generic]]
) -> list[NDArray[np.generic]]:
    """Return the items of all lists by ascending ids, which come first, and values."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ids: Any = columns[0]
    if ((ids[1:] > ids[:-1]) | (owners[1:] != owners[:-1])).all():
        return columns
    order = np.lexsort((*reversed(columns), owners))
    return [column[order] for column in columns]


def _as_seen(texts: pa.Array) -> pa.Array:
    seen = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(seen, r"\s+", " "))


def _list_keys(offsets: NDArray[np.int64], flat: NDArray[np.generic]) -> Keys:
    data = np.ascontiguousarray(flat).view(np.uint8)
    return Keys(*_hash(offsets * flat.dtype.itemsize, data))


@kernel
def _hash(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> tuple[Words, Words]:
    rows = len(offsets) - 1
    high, low = np.empty(rows, np.uint64), np.empty(rows, np.uint64)
    for row in range(rows):
        one, other = _FIRST, _SECOND
        for position in range(offsets[row], offsets[row + 1]):
            byte = np.uint64(data[position])
            one = (one ^ byte) * _STEP_1
            other = (other ^ byte) * _STEP_2
        length = np.uint64(offsets[row + 1] - offsets[row])
        high[row] = mix64_jit(one + length * _GOLDEN)
        low[row] = mix64_jit(other ^ length)
    return high, low


@kernel
def _join(high: Words, low: Words, more: Words, other: Words) -> None:
    """Mix the keys of another column into those of the columns before."""
    for row in range(len(high)):
        high[row] = mix64_jit(high[row] * _STEP_2 + more[row])
        low[row] = mix64_jit(low[row] * _STEP_1 + other[row] + _GOLDEN)
