"""Raw files, cut into pieces that are read one by one.

Pieces end where rows do. In a CSV file that is not at every line's end: a text in quotes may have
several lines. A line's end is a row's where the quotes before it are even in number, which a look
through the file tells without reading it as rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.prepare.config import SUFFIXES, Format, PrepareConfig
from orchestrator.prepare.delimited import DELIMITERS, column_names, read_delimited
from orchestrator.prepare.jsonl import read_jsonl
from orchestrator.prepare.rows import Sifted, aside, sift
from orchestrator.prepare.xmc import INDICES, LABELS, VALUES, read_lines
from workers.errors import ConfigError, DataError
from workers.shards.locating import find

_LOOK = 1 << 22
"""Bytes that are looked through at a time."""


@dataclass(frozen=True)
class Piece:
    """A part of a file."""

    file: str
    """Its path relative to the source."""
    start: int
    """The first byte; of a Parquet file, the first row group."""
    stop: int
    """The byte after the last; likewise."""


class Source:
    """Raw files of one format.

    Args:
        config: where they are, and what their columns mean.

    Raises:
        ConfigError: for settings that cannot work, and where nothing tells the format.
        DataError: if there are no files.
    """

    def __init__(self, config: PrepareConfig) -> None:
        self.config = config.validate()
        endings = (
            SUFFIXES[config.format]
            if config.format
            else tuple(ending for endings in SUFFIXES.values() for ending in endings)
        )
        self._found = find(config.source, endings=endings)
        self.format: Format = config.format or self._told_format()
        if self.format == "xmc":
            self.config = _of_xmc(config)

    @property
    def files(self) -> dict[str, int]:
        """The bytes of each file, by its path relative to the source, in order."""
        return self._found.sizes

    def pieces(self, file: str) -> list[Piece]:
        """Return the pieces of a file, in order."""
        if self.format == "parquet":
            return self._row_groups(file)
        size, cuts = self.files[file], [0]
        with self._found.open(file) as opened:
            cuts.extend(self._row_ends(opened, size))
        if cuts[-1] < size:
            cuts.append(size)
        return [Piece(file, *cut) for cut in itertools.pairwise(cuts)]

    def read(self, piece: Piece) -> Sifted:
        """Return the rows of a piece.

        Raises:
            DataError: the file has no such columns.
        """
        if self.format == "parquet":
            return self._read_parquet(piece)
        with self._found.open(piece.file) as opened:
            first = self._first_line(opened) if self.format in (*DELIMITERS, "xmc") else b""
            opened.seek(piece.start)
            text = opened.read(piece.stop - piece.start)
        where, config = self._found.path(piece.file), self.config
        if piece.start == 0 and not config.columns:
            text = text[len(first) :]
        if self.format == "xmc":
            lines = read_lines(text)
            return self._sifted(lines.table, piece, "no labels and features", lines.wrong)
        if self.format == "jsonl":
            table, wrong = read_jsonl(text, config)
            return self._sifted(table, piece, "no JSON object with these fields", wrong)
        names = list(config.columns) or column_names(first, config, self.format, where)
        return self._join(piece, *read_delimited(text, names, config, self.format))

    def _told_format(self) -> Format:
        told = {
            kind
            for kind, endings in SUFFIXES.items()
            for name in self.files
            if name.endswith(endings)
        }
        if len(told) == 1:
            return told.pop()
        found = ", ".join(sorted(told)) or ", ".join(self.files)
        raise ConfigError(
            f"{self.config.source}: expected files of one format, found {found}; name it with"
            " format=csv, tsv, jsonl, parquet or xmc, or give a glob"
        )

    def _first_line(self, opened: Any) -> bytes:
        opened.seek(0)
        text = b""
        while b"\n" not in text and (more := opened.read(_LOOK)):
            text += more
        line, newline, _ = text.partition(b"\n")
        return bytes(line + newline)

    def _row_ends(self, opened: Any, size: int) -> Iterator[int]:
        """Yield about every how many bytes a row ends."""
        wanted = self.config.piece_bytes
        quotes, at, target = 0, 0, wanted
        quoted = self.format == "csv"
        while target < size:
            if not quoted:
                at = max(at, target)
            opened.seek(at)
            text = opened.read(_LOOK)
            if not text:
                return
            end = _row_end(text, max(0, target - at), quotes, quoted)
            if end is None:
                quotes += text.count(b'"')
                at += len(text)
                continue
            quotes += text.count(b'"', 0, end)
            at += end
            if at < size:
                yield at
            target = at + wanted

    def _row_groups(self, file: str) -> list[Piece]:
        with pq.ParquetFile(self._found.open(file)) as opened:
            metadata, pieces, start, held = opened.metadata, [], 0, 0
            for group in range(metadata.num_row_groups):
                held += metadata.row_group(group).total_byte_size
                if held >= self.config.piece_bytes or group == metadata.num_row_groups - 1:
                    pieces.append(Piece(file, start, group + 1))
                    start, held = group + 1, 0
        return pieces

    def _read_parquet(self, piece: Piece) -> Sifted:
        with pq.ParquetFile(self._found.open(piece.file)) as opened:
            missing = set(self.config.inputs()) - set(opened.schema_arrow.names)
            if missing:
                raise DataError(
                    f"{self._found.path(piece.file)}: expected a column '{min(missing)}', found"
                    f" only {', '.join(opened.schema_arrow.names)}"
                )
            groups = list(range(piece.start, piece.stop))
            table = opened.read_row_groups(groups, self.config.inputs(), use_threads=False)
        return sift(table, self.config, self._found.path(piece.file))

    def _sifted(self, table: pa.Table, piece: Piece, reason: str, wrong: list[str]) -> Sifted:
        bad = aside(self._found.path(piece.file), [reason] * len(wrong), wrong)
        return self._join(piece, table, bad)

    def _join(self, piece: Piece, table: pa.Table, bad: pa.Table) -> Sifted:
        where = self._found.path(piece.file)
        rows, more = sift(table, self.config, where)
        bad = bad.set_column(0, "file", pa.array([where] * len(bad), pa.string()))
        return Sifted(rows, pa.concat_tables([bad, more]))


def _row_end(text: bytes, begin: int, quotes: int, quoted: bool) -> int | None:
    """Return where the first row that ends after `begin` does; None: not in this text.

    Args:
        text: some of a file.
        begin: in the text.
        quotes: that stand before it.
        quoted: whether an end of a line between quotes ends no row.
    """
    at = begin
    seen = quotes + text.count(b'"', 0, begin) if quoted else 0
    while (newline := text.find(b"\n", at)) >= 0:
        if quoted:
            seen += text.count(b'"', at, newline)
        at = newline + 1
        if seen % 2 == 0:
            return at
    return None


def _of_xmc(config: PrepareConfig) -> PrepareConfig:
    """Return the settings with the names of the format's columns."""
    return replace(config, format=None, labels=LABELS, indices=INDICES, values=VALUES)
