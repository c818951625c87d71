"""The text format of the Extreme Classification Repository (Bhatia et al. 2016).

The first line may hold the numbers of rows, features and labels; each other one is a row:
`label,label index:value index:value`. A row without labels begins with a space.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.jit import inline, kernel

Text = NDArray[np.uint8]
LABELS, INDICES, VALUES = "labels", "indices", "values"
"""What the columns are called."""
SIZES = re.compile(rb"\d+\s+\d+\s+\d+")
"""The numbers of rows, features and labels."""

_NEWLINE, _RETURN, _SPACE, _COMMA, _COLON = (ord(sign) for sign in "\n\r ,:")
_DOT, _MINUS, _PLUS, _ZERO, _NINE = (ord(sign) for sign in ".-+09")
_SMALL_E, _LARGE_E = ord("e"), ord("E")
_MOST_DIGITS = 18
"""Of a whole number, so that it fits."""


class Lines(NamedTuple):
    """Rows of features, and lines that are none."""

    table: pa.Table
    """Rows with `labels` and `indices` (list of int64) and `values` (list of float64)."""
    wrong: list[str]
    """Other lines."""


def read_lines(text: bytes) -> Lines:
    """Return the rows of some lines."""
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == _NEWLINE)
    if len(data) and data[-1] != _NEWLINE:
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    some = ends > starts
    starts, ends = starts[some], ends[some]
    found = _parse(data, starts, ends)
    label_offsets, labels, offsets, ids, values, good = found
    lists = pa.ListArray.from_arrays
    table = pa.table(
        {
            LABELS: lists(pa.array(label_offsets, pa.int32()), pa.array(labels)),
            INDICES: lists(pa.array(offsets, pa.int32()), pa.array(ids)),
            VALUES: lists(pa.array(offsets, pa.int32()), pa.array(values)),
        }
    )
    wrong = [
        text[starts[line] : ends[line]].decode("utf-8", "replace") for line in np.flatnonzero(~good)
    ]
    return Lines(table.filter(pa.array(good)) if wrong else table, wrong)


@kernel
def _parse(data: Text, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Any:
    """Return offsets and labels, offsets, indices and values of lines, and which are rows."""
    lines = len(starts)
    commas = colons = 0
    for sign in data:
        commas += int(sign == _COMMA)
        colons += int(sign == _COLON)
    labels = np.empty(commas + lines, np.int64)
    ids, values = np.empty(colons, np.int64), np.empty(colons, np.float64)
    label_offsets, offsets = np.zeros(lines + 1, np.int64), np.zeros(lines + 1, np.int64)
    good = np.ones(lines, np.bool_)
    used_labels = used = 0
    for line in range(lines):
        at, end = starts[line], ends[line]
        while end > at and (data[end - 1] == _RETURN or data[end - 1] == _SPACE):
            end -= 1
        first_label, first = used_labels, used
        fine = True
        if at < end and data[at] != _SPACE:
            while fine:
                number, at, fine = _whole(data, at, end)
                if fine:
                    labels[used_labels] = number
                    used_labels += 1
                    if at < end and data[at] == _COMMA:
                        at += 1
                        continue
                break
        while fine and at < end:
            fine = data[at] == _SPACE
            while at < end and data[at] == _SPACE:
                at += 1
            if not fine or at == end:
                break
            number, at, fine = _whole(data, at, end)
            fine = fine and at < end and data[at] == _COLON
            if fine:
                value, at, fine = _real(data, at + 1, end)
                if fine:
                    ids[used], values[used] = number, value
                    used += 1
        if not fine:
            good[line] = False
            used_labels, used = first_label, first
        label_offsets[line + 1], offsets[line + 1] = used_labels, used
    return label_offsets, labels[:used_labels], offsets, ids[:used], values[:used], good


@inline
def _whole(data: Any, at: Any, end: Any) -> Any:
    """Return the whole number that begins here, where it ends, and whether there is one."""
    number, begin = np.int64(0), at
    while at < end and _ZERO <= data[at] <= _NINE:
        number = number * 10 + np.int64(data[at] - _ZERO)
        at += 1
    return number, at, begin < at <= begin + _MOST_DIGITS


@inline
def _real(data: Any, at: Any, end: Any) -> Any:
    """Return the number that begins here, where it ends, and whether there is one."""
    sign = 1.0
    if at < end and (data[at] == _MINUS or data[at] == _PLUS):
        sign = -1.0 if data[at] == _MINUS else 1.0
        at += 1
    digits, power, mantissa = 0, 0, 0.0
    while at < end and _ZERO <= data[at] <= _NINE:
        mantissa = mantissa * 10 + np.float64(data[at] - _ZERO)
        digits += 1
        at += 1
    if at < end and data[at] == _DOT:
        at += 1
        while at < end and _ZERO <= data[at] <= _NINE:
            mantissa = mantissa * 10 + np.float64(data[at] - _ZERO)
            digits += 1
            power -= 1
            at += 1
    fine = digits > 0
    if fine and at < end and (data[at] == _SMALL_E or data[at] == _LARGE_E):
        at += 1
        down = at < end and data[at] == _MINUS
        if at < end and (data[at] == _MINUS or data[at] == _PLUS):
            at += 1
        exponent, at, fine = _whole(data, at, end)
        exponent = min(exponent, 1000)
        power += -exponent if down else exponent
    value = sign * mantissa * 10.0**power
    # A number ends where the line does, or a space stands.
    return value, at, fine and (at == end or data[at] == _SPACE)
