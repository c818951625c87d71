"""Rows as they are read: those that can be used, and those that cannot, with the reason.

Whatever a format holds, rows are a table of the text columns (string), or of `indices` (list of
int64) and `values` (list of float32), with `NAMES` (list of string): the names of a row's classes
in Unicode's NFC, each once, in their order; and `WEIGHT` (float32), if there is one.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.prepare.config import WEIGHT, PrepareConfig

NAMES = "_names"
"""What the column of class names is called until they have ids."""
QUOTED = 200
"""Characters of a row that cannot be used that are kept."""
ASIDE = pa.schema([("file", pa.string()), ("reason", pa.string()), ("row", pa.string())])
"""Rows that are set aside: where they stood, what is wrong with them, and how they begin."""

_LARGEST = float(np.finfo(np.float32).max)


class Sifted(NamedTuple):
    """What was read of a piece of a file."""

    rows: pa.Table
    """That can be used."""
    aside: pa.Table
    """Those that cannot, as `ASIDE`."""


class Names(NamedTuple):
    """The class names of n rows."""

    offsets: NDArray[np.int64]
    """(n + 1,)."""
    flat: pa.Array
    """(names,) string."""


def aside(file: str, reasons: list[str], rows: list[str]) -> pa.Table:
    """Return rows as they are set aside."""
    short = [row[:QUOTED] for row in rows]
    return pa.table([[file] * len(rows), reasons, short], schema=ASIDE)


def sift(table: pa.Table, config: PrepareConfig, file: str) -> Sifted:
    """Return the rows of a table that can be used, and the others.

    Args:
        table: with the columns of `config.inputs()`, of any types.
        config: says what they mean.
        file: that they are from.
    """
    table = table.combine_chunks()
    wrong = _Wrong(table.num_rows)
    columns: dict[str, pa.Array] = {}
    if config.text:
        texts = [_texts(column_of(table, name)) for name in config.text]
        columns |= dict(zip(config.text, texts, strict=True))
        blank = np.logical_and.reduce([_is_blank(text) for text in texts])
        if not config.indices:
            wrong.are(blank, "no text")
    if config.indices:
        ids, values = _features(table, config, wrong)
        columns[config.indices] = ids
        if config.values:
            columns[config.values] = values
    names = names_of(column_of(table, config.labels), config.label_separator)
    counts = np.diff(names.offsets)
    wrong.are(counts == 0, "no class")
    wrong.are(counts > config.most_labels, f"more than {config.most_labels:,} classes")
    columns[NAMES] = pa.ListArray.from_arrays(pa.array(names.offsets, pa.int32()), names.flat)
    if config.weight:
        columns[WEIGHT] = _weights(column_of(table, config.weight), wrong)
    rows = pa.table(columns)
    if not wrong.some.any():
        return Sifted(rows, aside(file, [], []))
    which = np.flatnonzero(wrong.some)
    quotes = [quoted(table.slice(int(row), 1)) for row in which]
    return Sifted(
        rows.filter(pa.array(~wrong.some)),
        aside(file, [wrong.reasons[int(row)] for row in which], quotes),
    )


def names_of(column: pa.Array, separator: str | None) -> Names:
    """Return class names as text: of texts, numbers or lists of them, blank ones left out.

    Numbers that are whole are written without a point, whatever type they are stored in: what one
    file has as 12 and another as 12.0 is one class. What is not finite is no name: it stands for
    a missing one.

    Args:
        column: (n,) of any type.
        separator: between the names in a text; None: it is one.
    """
    if is_list(column.type):
        counts, flat = _lengths(column), _as_text(pc.list_flatten(column))
    else:
        flat, counts = _as_text(column), np.ones(len(column), np.int64)
        if separator is not None:
            parts = pc.split_pattern(pc.fill_null(flat, ""), separator)
            counts = pc.list_value_length(parts).to_numpy(zero_copy_only=False)
            flat = pc.list_flatten(parts)
    flat = pc.utf8_normalize(pc.utf8_trim_whitespace(pc.fill_null(flat, "")), "NFC")
    owners = np.repeat(np.arange(len(column)), counts)
    keep = pc.not_equal(flat, "").to_numpy(zero_copy_only=False) & _is_first(owners, flat)
    found = np.bincount(owners[keep], minlength=len(column))
    return Names(np.concatenate([[0], np.cumsum(found)]), flat.filter(pa.array(keep, pa.bool_())))


class _Wrong:
    # Which rows cannot be used, and the first reason for each.

    def __init__(self, rows: int) -> None:
        self.some = np.zeros(rows, np.bool_)
        self.reasons: dict[int, str] = {}

    def are(self, rows: NDArray[np.bool_], reason: str) -> None:
        new = rows & ~self.some
        if new.any():
            self.reasons |= dict.fromkeys(np.flatnonzero(new).tolist(), reason)
            self.some |= new


def column_of(table: pa.Table, name: str) -> pa.Array:
    """Return a column as one array."""
    column = table.column(name)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def text_of(cell: bytes, encoding: str = "utf-8") -> str | None:
    """Return bytes as text; None: they are not in the encoding."""
    try:
        return cell.decode(encoding)
    except UnicodeDecodeError:
        return None


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column holds a list in each row."""
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(fits(kind) for fits in kinds)


def owners_of(lists: pa.Array) -> NDArray[np.int64]:
    """Return which row each item of lists is in."""
    return np.repeat(np.arange(len(lists)), _lengths(lists))


def listed(lists: pa.Array, items: pa.Array) -> pa.Array:
    """Return lists with other items in the place of theirs; of nulls, empty ones."""
    return pa.ListArray.from_arrays(_offsets(_lengths(lists)), items)


def _lengths(lists: pa.Array) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(False)
    return lengths


def _offsets(counts: NDArray[np.int64]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())


def _texts(column: pa.Array) -> pa.Array:
    return pc.fill_null(_as_text(column), "")


def _is_blank(texts: pa.Array) -> NDArray[np.bool_]:
    blank: NDArray[np.bool_] = pc.equal(pc.utf8_trim_whitespace(texts), "").to_numpy(
        zero_copy_only=False
    )
    return blank


def _as_text(values: pa.Array) -> pa.Array:
    """Return numbers and texts as texts; nulls stay."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        values = values.cast(pa.float64())
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))
        fits = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**63))
        if pc.all(fits, min_count=0).as_py():
            values = values.cast(pa.int64())
        else:
            return pa.array(
                [
                    None if v is None else (str(int(v)) if v.is_integer() else str(v))
                    for v in values.to_pylist()
                ],
                pa.string(),
            )
    return values.cast(pa.string())


def _is_first(owners: NDArray[np.int64], flat: pa.Array) -> NDArray[np.bool_]:
    """Return which names a row has not had before."""
    first = np.ones(len(flat), np.bool_)
    # Most rows have one name, or names that differ: only those with more are looked at.
    several = np.flatnonzero(np.bincount(owners, minlength=1)[owners] > 1)
    if len(several):
        codes = flat.take(pa.array(several)).dictionary_encode().indices.to_numpy()
        keys = np.stack([owners[several], codes])
        order = np.lexsort(keys[::-1])
        sorted_keys = keys[:, order]
        again = (sorted_keys[:, 1:] == sorted_keys[:, :-1]).all(0)
        first[several[order[1:][again]]] = False
    return first


def _features(
    table: pa.Table, config: PrepareConfig, wrong: _Wrong
) -> tuple[pa.Array, pa.Array | None]:
    assert config.indices is not None
    ids = _numbers(column_of(table, config.indices), pa.int64(), "an index", wrong)
    counts = _lengths(ids)
    if not config.text:
        wrong.are(counts == 0, "no features")
    if not config.values:
        return ids, None
    values = _numbers(column_of(table, config.values), pa.float32(), "a value", wrong)
    others = _lengths(values)
    wrong.are(counts != others, "as many values as indices expected, found others")
    flat = pc.list_flatten(values).to_numpy(zero_copy_only=False)
    bad = np.repeat(np.arange(len(others)), others)[~np.isfinite(flat)]
    wrong.are(np.bincount(bad, minlength=len(others)) > 0, "a value that is not finite")
    return ids, values


def _numbers(column: pa.Array, kind: pa.DataType, what: str, wrong: _Wrong) -> pa.Array:
    """Return lists of numbers, also of texts that have them between spaces; empty for nulls."""
    if not is_list(column.type):
        column = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(_texts(column)))
        # What is between the spaces of an empty text.
        some = pc.not_equal(pc.list_flatten(column), "")
        owners, flat = owners_of(column), pc.list_flatten(column)
        counts = np.bincount(owners[some.to_numpy(False)], minlength=len(column))
        column = pa.ListArray.from_arrays(_offsets(counts), flat.filter(some))
    flat = pc.list_flatten(column)
    try:
        numbers = flat.cast(kind)
        fit = flat.is_valid().to_numpy(False)
    except pa.ArrowInvalid:
        fit = np.array([_fits(item, kind) for item in flat], np.bool_)
    if not fit.all():
        numbers = np.zeros(len(flat), kind.to_pandas_dtype())
        numbers[fit] = flat.filter(pa.array(fit)).cast(kind).to_numpy()
        bad = owners_of(column)[~fit]
        wrong.are(np.bincount(bad, minlength=len(column)) > 0, f"{what} that is no number")
        numbers = pa.array(numbers, kind)
    return listed(column, numbers)


def _fits(item: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        return bool(item.cast(kind).is_valid)
    except pa.ArrowInvalid:
        return False


def _weights(column: pa.Array, wrong: _Wrong) -> pa.Array:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        numbers = np.array([_number(text) for text in column.to_pylist()], np.float64)
    else:
        numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    fit = (numbers >= 0) & (numbers <= _LARGEST)
    wrong.are(~fit, "a weight that is no finite number of at least 0")
    return pa.array(np.where(fit, numbers, 0).astype(np.float32))


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return float("nan")


def quoted(row: pa.Table) -> str:
    """Return a row as it is quoted among those that are set aside."""
    (values,) = row.to_pylist()
    short: dict[str, Any] = {
        name: value[:20] if isinstance(value, (str, list)) else value
        for name, value in values.items()
    }
    return json.dumps(short, ensure_ascii=False, default=str)
