"""Parquet: columns of any types, of which some cannot be what the settings say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.prepare.config import PrepareConfig
from orchestrator.prepare.rows import aside, column_of, is_list, listed, owners_of, quoted, text_of
from workers.errors import DataError


def check_types(schema: pa.Schema, config: PrepareConfig, where: str) -> None:
    """Check that columns have types that can be what they mean.

    Args:
        schema: with the columns of `config.inputs()`.
        config: says what they mean.
        where: the words for the file.

    Raises:
        DataError: one has not.
    """
    for name in config.inputs():
        _check(name, schema.field(name).type, config, where)


def read_columns(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return rows whose texts are UTF-8, and the others, which are set aside."""
    columns, raw = {}, {}
    bad = np.zeros(table.num_rows, np.bool_)
    for name in table.column_names:
        columns[name], raw[name], wrong = _decoded(column_of(table, name))
        bad |= wrong
    decoded = pa.table(columns)
    if not bad.any():
        return decoded, aside("", [], [])
    rows = pa.table(raw)
    quotes = [quoted(rows.slice(int(row), 1)) for row in np.flatnonzero(bad)]
    return decoded.filter(pa.array(~bad)), aside("", ["not in utf-8"] * len(quotes), quotes)


def _check(name: str, kind: pa.DataType, config: PrepareConfig, where: str) -> None:
    inner = kind.value_type if is_list(kind) else kind
    if name in config.text:
        fits, wanted = not pa.types.is_nested(kind), "of texts or numbers"
    elif name in (config.indices, config.values):
        whole = "whole " if name == config.indices else ""
        fits = _is_text(kind) or (is_list(kind) and (_is_text(inner) or _is_number(inner)))
        wanted = f"of lists of {whole}numbers"
    elif name == config.weight:
        fits, wanted = _is_text(kind) or _is_number(kind), "of numbers"
    else:
        fits, wanted = not pa.types.is_nested(inner), "of class names or lists of them"
    if not fits:
        raise DataError(
            f"{where}: expected a column '{name}' {wanted}, found {kind}; name another column, or"
            " write it as that type"
        )


def _decoded(column: pa.Array) -> tuple[pa.Array, pa.Array, NDArray[np.bool_]]:
    """Return a column with its bytes as text, with its texts as bytes, and which rows have none."""
    fine = np.zeros(len(column), np.bool_)
    many = is_list(column.type)
    flat = pc.list_flatten(column) if many else column
    if pa.types.is_dictionary(flat.type):
        flat = flat.dictionary_decode()
    if not _is_text(flat.type) or pa.types.is_null(flat.type):
        return column, column, fine
    raw = flat.cast(pa.large_binary())
    try:
        texts, bad = raw.cast(pa.large_string()), fine
    except pa.ArrowInvalid:
        cells = [None if cell is None else text_of(cell) for cell in raw.to_pylist()]
        lost = np.array([cell is None for cell in cells]) & raw.is_valid().to_numpy(False)
        texts = pa.array(cells, pa.large_string())
        owners = owners_of(column) if many else np.arange(len(column))
        bad = np.bincount(owners[lost], minlength=len(column)) > 0
    if many:
        return listed(column, texts), listed(column, raw), bad
    return texts, raw, bad


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        fits(kind)
        for fits in (
            pa.types.is_null,
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def _is_number(kind: Any) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(fits(kind) for fits in kinds)
