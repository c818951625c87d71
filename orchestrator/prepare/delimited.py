"""CSV and TSV: columns between commas, in which texts may stand in quotes, or between tabs."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from orchestrator.prepare.config import Format, PrepareConfig
from orchestrator.prepare.cutting import unended
from orchestrator.prepare.rows import aside, text_of
from workers.errors import DataError

DELIMITERS: dict[Format, str] = {"csv": ",", "tsv": "\t"}


def column_names(first: bytes, config: PrepareConfig, kind: Format, where: str) -> list[str]:
    """Return the names in the first line of a file.

    Raises:
        DataError: columns that the settings name are not among them.
    """
    line = first.decode(config.encoding, "replace")
    names = next(csv.reader([line], delimiter=DELIMITERS[kind]), [])
    if missing := [name for name in config.inputs() if name not in names]:
        raise DataError(
            f"{where}: expected a column '{missing[0]}' in its first line, found"
            f" {', '.join(names)[:200]}; name the columns of files that begin without such a line"
            f" with columns=[{missing[0]},...]"
        )
    return names


def read_delimited(
    text: bytes, names: list[str], config: PrepareConfig, kind: Format
) -> tuple[pa.Table, pa.Table]:
    """Return the rows of a piece of a file, and what is set aside of it.

    Args:
        text: whole rows.
        names: of all columns.
        config: says which are read.
        kind: csv or tsv.
    """
    text, unread = _ended(text) if kind == "csv" else (text, [])
    table, reasons, wrong = _rows(text, names, config.inputs(), kind)
    quoted = [_shown(row, config.encoding) for row in wrong]
    decoded, bad = _decoded(table.combine_chunks(), config.encoding)
    quotes = [str(row) for row in table.filter(bad).to_pylist()]
    unreadable = [f"not in {config.encoding}"] * len(quotes)
    kept = decoded.filter(pc.invert(bad)) if quotes else decoded
    open_ended = [_shown(line, config.encoding) for line in unread]
    return kept, aside(
        "",
        [*reasons, *["a quote that does not end"] * len(unread), *unreadable],
        [*quoted, *open_ended, *quotes],
    )


def _ended(text: bytes) -> tuple[bytes, list[bytes]]:
    """Return rows without the lines in which a quote begins that never ends, and those lines."""
    whole, lines = b"", []
    while (begin := unended(text)) is not None:
        line, _, rest = text[begin:].partition(b"\n")
        lines.append(line)
        whole, text = whole + text[:begin], rest
    return whole + text, lines


def _rows(
    text: bytes, names: list[str], wanted: list[str], kind: Format
) -> tuple[pa.Table, list[str], list[bytes]]:
    """Return wanted columns as bytes, and rows with other numbers of columns: reasons and bytes."""
    if _is_utf8(text):
        table, reasons, wrong = _cells(text, names, wanted, kind)
        return table, reasons, [row.encode() for row in wrong]
    try:
        return _cells(text, names, wanted, kind, skip=False)[0], [], []
    except pa.ArrowInvalid:
        # There are such rows, and Arrow cannot quote what is not in UTF-8. As Latin-1 all bytes
        # are text, with the same commas, quotes and line ends.
        table, reasons, wrong = _cells(text.decode("latin-1").encode(), names, wanted, kind)
    columns = [_bytes_of(column) for column in table.columns]
    return pa.table(columns, table.column_names), reasons, [row.encode("latin-1") for row in wrong]


def _cells(
    text: bytes, names: list[str], wanted: list[str], kind: Format, *, skip: bool = True
) -> tuple[pa.Table, list[str], list[str]]:
    """Return wanted columns as bytes, and rows with other numbers of columns: reasons and texts.

    Raises:
        ArrowInvalid: there are such rows, and they are not to be skipped.
    """
    reasons: list[str] = []
    wrong: list[str] = []

    def invalid(row: arrow_csv.InvalidRow) -> str:
        reasons.append(f"{row.expected_columns} columns expected, found {row.actual_columns}")
        wrong.append(row.text)
        return "skip"

    kinds = dict.fromkeys(wanted, pa.binary())
    if not text.strip():
        return pa.table({name: pa.array([], pa.binary()) for name in wanted}), [], []
    table = arrow_csv.read_csv(
        io.BytesIO(text),
        arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
        arrow_csv.ParseOptions(
            delimiter=DELIMITERS[kind],
            quote_char='"' if kind == "csv" else False,
            newlines_in_values=kind == "csv",
            invalid_row_handler=invalid if skip else None,
        ),
        arrow_csv.ConvertOptions(
            include_columns=wanted, column_types=kinds, strings_can_be_null=False
        ),
    )
    return table, reasons, wrong


def _is_utf8(text: bytes) -> bool:
    try:
        pa.array([text], pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _shown(line: bytes, encoding: str) -> str:
    return line.decode(encoding, "replace")


def _bytes_of(column: pa.ChunkedArray) -> pa.Array:
    """Return what was read as Latin-1 as the bytes that it was."""
    return pa.array([cell.decode().encode("latin-1") for cell in column.to_pylist()], pa.binary())


def _decoded(table: pa.Table, encoding: str) -> tuple[pa.Table, pa.Array]:
    """Return columns of bytes as text, and which rows have some that are not in the encoding."""
    bad = pa.array([False] * table.num_rows, pa.bool_())
    columns = {}
    utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    for name in table.column_names:
        column = table.column(name)
        try:
            if not utf8:
                raise pa.ArrowInvalid("another encoding")
            columns[name] = column.cast(pa.string())
        except pa.ArrowInvalid:
            texts = [text_of(cell, encoding) for cell in column.to_pylist()]
            columns[name] = pa.array([text or "" for text in texts], pa.string())
            bad = pc.or_(bad, pa.array([text is None for text in texts], pa.bool_()))
    return pa.table(columns), bad
