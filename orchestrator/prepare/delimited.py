"""CSV and TSV: columns between commas, in which texts may stand in quotes, or between tabs."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from orchestrator.prepare.config import Format, PrepareConfig
from orchestrator.prepare.rows import aside
from workers.errors import DataError

DELIMITERS: dict[Format, str] = {"csv": ",", "tsv": "\t"}
_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""What some programs begin a file with."""


def column_names(first: bytes, config: PrepareConfig, kind: Format, where: str) -> list[str]:
    """Return the names in the first line of a file.

    Raises:
        DataError: columns that the settings name are not among them.
    """
    line = first.decode(config.encoding, "replace").removeprefix(_MARK)
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
    reasons: list[str] = []
    wrong: list[str] = []

    def invalid(row: arrow_csv.InvalidRow) -> str:
        reasons.append(f"{row.expected_columns} columns expected, found {row.actual_columns}")
        wrong.append(row.text)
        return "skip"

    wanted = config.inputs()
    kinds = dict.fromkeys(wanted, pa.binary())
    if text.strip():
        table = arrow_csv.read_csv(
            io.BytesIO(text),
            arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
            arrow_csv.ParseOptions(
                delimiter=DELIMITERS[kind],
                quote_char='"' if kind == "csv" else False,
                newlines_in_values=kind == "csv",
                invalid_row_handler=invalid,
            ),
            arrow_csv.ConvertOptions(
                include_columns=wanted, column_types=kinds, strings_can_be_null=False
            ),
        )
    else:
        table = pa.table({name: pa.array([], pa.binary()) for name in wanted})
    decoded, bad = _decoded(table.combine_chunks(), config.encoding)
    quotes = [str(row) for row in table.filter(bad).to_pylist()]
    unreadable = [f"not in {config.encoding}"] * len(quotes)
    kept = decoded.filter(pc.invert(bad)) if quotes else decoded
    return kept, aside("", reasons + unreadable, wrong + quotes)


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
            texts = [_text(cell, encoding) for cell in column.to_pylist()]
            columns[name] = pa.array([text or "" for text in texts], pa.string())
            bad = pc.or_(bad, pa.array([text is None for text in texts], pa.bool_()))
    return pa.table(columns), bad


def _text(cell: bytes, encoding: str) -> str | None:
    try:
        return cell.decode(encoding)
    except UnicodeDecodeError:
        return None
