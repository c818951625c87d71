"""Raw files of one format, cut into pieces that are read one by one.

What is compressed by gzip can be read from its beginning only, so it is unpacked first.
"""

from __future__ import annotations

import codecs
import gzip
import itertools
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.prepare.config import PACKED, SUFFIXES, UNPACKED, Format, PrepareConfig
from orchestrator.prepare.cutting import Look, Piece, cut, first_line, look_through, plain
from orchestrator.prepare.delimited import DELIMITERS, column_names, read_delimited
from orchestrator.prepare.jsonl import read_jsonl
from orchestrator.prepare.parquet import check_types, read_columns
from orchestrator.prepare.rows import Sifted, aside, sift
from orchestrator.prepare.xmc import INDICES, LABELS, SIZES, VALUES, read_lines
from workers.errors import ConfigError, DataError
from workers.shards.locating import Found, find
from workers.storage import Storage
from workers.storage.wording import explained

_PIECES = 16
"""Of a file that are looked for together."""
_MARK = codecs.BOM_UTF8
"""What some programs begin a file with."""


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
        formats = [config.format] if config.format else list(SUFFIXES)
        self._looked_for = sum(map(_endings, formats), ())
        self._found = find(config.source, endings=self._looked_for)
        self.format: Format = config.format or self._told_format()
        if self.format == "xmc":
            self.config = _of_xmc(config)

    @property
    def files(self) -> dict[str, int]:
        """The bytes of each file, by its path relative to the source, in order."""
        return self._found.sizes

    @property
    def packed(self) -> list[str]:
        """Files that are unpacked before they are read, in order."""
        return [name for name in self.files if name.endswith(PACKED)]

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each file as it is read: unpacked."""
        packed = {name: self._unpacked.sizes[place] for name, place in self._places.items()}
        return {**self.files, **packed}

    def reads(self, uri: str) -> bool:
        """Return whether a file would be one of these if it were there."""
        source = self.config.source
        place = PurePosixPath(uri.partition("?")[0])
        pattern = PurePosixPath(source.partition("?")[0] if "://" in source else source)
        in_folder = place.parent == pattern and place.name.endswith(self._looked_for)
        return in_folder or place.match(str(pattern))

    def check(self) -> None:
        """Look whether the first file has the columns that the settings name.

        Raises:
            DataError: it has not.
        """
        file = next((name for name, size in self.files.items() if size), None)
        if file is None:
            return
        if self.format == "parquet":
            with self._parquet(file) as parquet:
                self._check_parquet(parquet.schema_arrow, self._found.path(file))
        elif self.format in DELIMITERS and not self.config.columns:
            with self._found.open(file) as opened:
                self._check_first_line(file, opened)

    def _check_first_line(self, file: str, opened: Any) -> None:
        try:
            unpacked = gzip.GzipFile(fileobj=opened) if file.endswith(PACKED) else opened
            first = first_line(unpacked).removeprefix(_MARK)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            # What is wrong with it is told when it is unpacked.
            return
        column_names(first, self.config, self.format, self._found.path(file))

    def unpack(self, file: str, place: Path) -> None:
        """Unpack a file, to be read from `UNPACKED` in the job's folder, by its place in `packed`.

        Raises:
            DataError: if it is cut short or altered.
        """
        with self._found.open(file) as opened, place.open("wb") as unpacked:
            try:
                shutil.copyfileobj(gzip.GzipFile(fileobj=opened), unpacked, 1 << 20)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DataError(
                    f"{self._found.path(file)}: expected a whole gzip file, found {error}; write it"
                    " anew, or unpack what can be read of it"
                ) from error

    @cached_property
    def spans(self) -> list[Piece]:
        """Parts of files, in each of which pieces are looked for by itself."""
        if self.format == "parquet":
            return [Piece(name, 0, size) for name, size in self.files.items()]
        step = _PIECES * self.config.piece_bytes
        return [
            Piece(name, start, min(start + step, size))
            for name, size in self.sizes.items()
            for start in range(0, size, step)
        ]

    def look(self, span: Piece) -> Look:
        """Return where a file may be cut, as far as a part of it tells."""
        if self.format == "parquet":
            return plain(self._group_ends(span.file))
        with self._open(span.file) as opened:
            return look_through(opened, span, self.config.piece_bytes, quoted=self.format == "csv")

    def pieces(self, looks: Iterable[Look] | None = None) -> list[Piece]:
        """Return the pieces of all files, in order.

        Args:
            looks: at all of `spans`; None: they are looked through now.
        """
        told = zip(self.spans, looks or map(self.look, self.spans), strict=True)
        found: list[Piece] = []
        for file, parts in itertools.groupby(told, lambda each: each[0].file):
            its = [look for _, look in parts]
            size = max(its[0].cuts[0], default=0) if self.format == "parquet" else self.sizes[file]
            found += cut(file, size, its)
        return found

    def read(self, piece: Piece) -> Sifted:
        """Return the rows of a piece.

        Raises:
            DataError: the file has no such columns.
        """
        if self.format == "parquet":
            return self._read_parquet(piece)
        with self._open(piece.file) as opened:
            first = first_line(opened) if self.format in (*DELIMITERS, "xmc") else b""
            opened.seek(piece.start)
            text = opened.read(piece.stop - piece.start)
        where, config = self._found.path(piece.file), self.config
        first = first.removeprefix(_MARK)
        if piece.start == 0:
            text = text.removeprefix(_MARK)
            if self._is_no_row(first):
                text = text[len(first) :]
        if self.format == "xmc":
            lines = read_lines(text)
            return self._sifted(lines.table, piece, "no labels and features", lines.wrong)
        if self.format == "jsonl":
            table, wrong = read_jsonl(text, config)
            return self._sifted(table, piece, "no JSON object with these fields", wrong)
        names = list(config.columns) or column_names(first, config, self.format, where)
        return self._join(piece, *read_delimited(text, names, config, self.format))

    def _is_no_row(self, first: bytes) -> bool:
        """Return whether a file's first line is one of names, or of numbers of rows."""
        if self.format == "xmc":
            return SIZES.fullmatch(first.strip()) is not None
        return self.format in DELIMITERS and not self.config.columns

    def _told_format(self) -> Format:
        told = {kind for kind in SUFFIXES for name in self.files if name.endswith(_endings(kind))}
        if told == {"xmc"} and self.config.inputs() != [self.config.labels]:
            raise ConfigError(
                f"{self.config.source}: expected files that tell their format where columns are"
                " named, found *.txt; name it with format=csv, tsv or jsonl"
            )
        if len(told) == 1:
            return told.pop()
        found = ", ".join(sorted(told)) or ", ".join(self.files)
        raise ConfigError(
            f"{self.config.source}: expected files of one format, found {found}; name it with"
            " format=csv, tsv, jsonl, parquet or xmc, or give a glob"
        )

    @cached_property
    def _unpacked(self) -> Found:
        return find(Storage(self.config.out).where(UNPACKED), endings=("",))

    @property
    def _places(self) -> dict[str, str]:
        return {name: f"{place:05d}" for place, name in enumerate(self.packed)}

    def _open(self, file: str) -> pa.NativeFile:
        place = self._places.get(file)
        return self._unpacked.open(place) if place else self._found.open(file)

    def _group_ends(self, name: str) -> list[int]:
        with self._parquet(name) as file:
            metadata, ends, held = file.metadata, [], 0
            for group in range(metadata.num_row_groups):
                held += metadata.row_group(group).total_byte_size
                if held >= self.config.piece_bytes or group == metadata.num_row_groups - 1:
                    ends.append(group + 1)
                    held = 0
        return ends

    def _read_parquet(self, piece: Piece) -> Sifted:
        with self._parquet(piece.file) as opened:
            self._check_parquet(opened.schema_arrow, self._found.path(piece.file))
            groups = list(range(piece.start, piece.stop))
            table = opened.read_row_groups(groups, self.config.inputs(), use_threads=False)
        return self._join(piece, *read_columns(table))

    @contextmanager
    def _parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file; `DataError` if something cannot be read in it."""
        where = self._found.path(name)
        try:
            with self._open(name) as opened, pq.ParquetFile(opened) as file:
                yield file
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                with explained(where):
                    raise
            found = str(error).strip().split("\n")[0]
            raise DataError(
                f"{where}: expected Parquet that can be read, found: {found}; restore the file, or"
                " leave it out by a glob"
            ) from error

    def _check_parquet(self, schema: pa.Schema, where: str) -> None:
        if missing := set(self.config.inputs()) - set(schema.names):
            raise DataError(
                f"{where}: expected a column '{min(missing)}', found only {', '.join(schema.names)}"
            )
        check_types(schema, self.config, where)

    def _sifted(self, table: pa.Table, piece: Piece, reason: str, wrong: list[str]) -> Sifted:
        bad = aside(self._found.path(piece.file), [reason] * len(wrong), wrong)
        return self._join(piece, table, bad)

    def _join(self, piece: Piece, table: pa.Table, bad: pa.Table) -> Sifted:
        where = self._found.path(piece.file)
        rows, more = sift(table, self.config, where)
        bad = bad.set_column(0, "file", pa.array([where] * len(bad), pa.string()))
        return Sifted(rows, pa.concat_tables([bad, more]))


def _endings(kind: Format) -> tuple[str, ...]:
    """Return how the names of files of a format end."""
    # Parquet is compressed by itself, and could not be read from the middle any more.
    packed = () if kind == "parquet" else tuple(f"{ending}{PACKED}" for ending in SUFFIXES[kind])
    return SUFFIXES[kind] + packed


def _of_xmc(config: PrepareConfig) -> PrepareConfig:
    """Return the settings with the names of the format's columns."""
    return replace(config, format=None, labels=LABELS, indices=INDICES, values=VALUES)
