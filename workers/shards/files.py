"""The Parquet files of a data set, on any pyarrow filesystem."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from workers.config import DataConfig
from workers.errors import BadShardError, DataError
from workers.shards.order import Slice

_BUFFER = 1 << 20
"""Bytes of a column that are read at once; without it Arrow holds whole row groups."""


class ShardSet:
    """The Parquet files of one data set, opened and checked.

    Args:
        uri: a file, a folder of *.parquet, or a glob; any pyarrow filesystem.

    Raises:
        DataError: if there is no Parquet file or no row.
        BadShardError: if a file is not Parquet or cut short.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._filesystem, self.paths = _find(uri)
        files = [self._open(path) for path in self.paths]
        self.schemas = [file.schema_arrow for file in files]
        self.groups = [
            Slice(shard, group, 0, file.metadata.row_group(group).num_rows)
            for shard, file in enumerate(files)
            for group in range(file.metadata.num_row_groups)
            if file.metadata.row_group(group).num_rows
        ]
        self._rows = {(group.shard, group.group): group.rows for group in self.groups}
        self.rows = sum(self._rows.values())
        if not self.rows:
            raise DataError(
                f"{uri}: expected rows, found {len(files)} Parquet files without any;"
                " check what wrote them"
            )
        self.sizes = [info.size for info in self._filesystem.get_file_info(self.paths)]

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this data set from another: each shard's name and shape."""
        rows, row_groups = Counter[int](), Counter[int]()
        for group in self.groups:
            rows[group.shard] += group.rows
            row_groups[group.shard] += 1
        shards = [
            {
                "name": Path(path).name,
                "bytes": size,
                "rows": rows[shard],
                "row_groups": row_groups[shard],
                "schema": [f"{field.name}: {field.type}" for field in schema],
            }
            for shard, (path, size, schema) in enumerate(
                zip(self.paths, self.sizes, self.schemas, strict=True)
            )
        ]
        return {"rows": self.rows, "shards": shards}

    def check_columns(self, data: DataConfig, *, labels: bool = True) -> None:
        """Check that every shard has the columns that `data` names, of types that fit.

        Raises:
            DataError: names the shard, the column, the type and what is there.
        """
        for path, schema in zip(self.paths, self.schemas, strict=True):
            for name in data.columns(labels=labels):
                if name not in schema.names:
                    raise DataError(
                        f"{path}: expected a column '{name}', found only"
                        f" {', '.join(schema.names)}; name the columns with data.text,"
                        " data.indices, data.dense and data.labels"
                    )
                kind, first = schema.field(name).type, self.schemas[0].field(name).type
                _check_type(path, name, kind, data)
                if kind != first:
                    raise DataError(
                        f"{path}: expected column '{name}' of type {first}, as in"
                        f" {self.paths[0]}, found {kind}; write all shards with one schema"
                    )

    def group_rows(self, piece: Slice) -> int:
        """Return how many rows the row group has that a slice belongs to."""
        return self._rows[piece.shard, piece.group]

    def where(self, piece: Slice) -> str:
        """Return the words that name a slice to a user."""
        return f"{self.paths[piece.shard]}, row group {piece.group}"

    def read(self, piece: Slice, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield a row group's rows, in order, as batches; `piece.rows` gives their size.

        Raises:
            BadShardError: names the shard, the row group and what Arrow found.
        """
        try:
            file = self._open(self.paths[piece.shard])
            yield from file.iter_batches(
                piece.rows, row_groups=[piece.group], columns=list(columns), use_threads=False
            )
        except (pa.ArrowException, OSError) as error:
            raise BadShardError(
                f"{self.where(piece)}: expected readable Parquet, found: {_first_line(error)};"
                " restore the file, or take it out of the data set"
            ) from error

    def _open(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(
                path,
                filesystem=self._filesystem,
                buffer_size=_BUFFER,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError) as error:
            raise BadShardError(
                f"{path}: expected a Parquet file, found: {_first_line(error)};"
                " restore the file, or take it out of the data set"
            ) from error


def read_table(uri: str, columns: Sequence[str]) -> pa.Table:
    """Return whole columns of small Parquet files, such as class names.

    Raises:
        DataError: if there is no such file or column.
        BadShardError: if a file cannot be read.
    """
    filesystem, paths = _find(uri)
    try:
        return pq.read_table(paths, filesystem=filesystem, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise BadShardError(
            f"{uri}: expected Parquet with columns {', '.join(columns)},"
            f" found: {_first_line(error)}"
        ) from error


def _find(uri: str) -> tuple[pa.fs.FileSystem, list[str]]:
    filesystem, path = _resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type == pa.fs.FileType.File:
        return filesystem, [path]
    if info.type == pa.fs.FileType.Directory:
        found = filesystem.get_file_info(pa.fs.FileSelector(path))
        paths = sorted(f.path for f in found if f.is_file and f.path.endswith(".parquet"))
    elif isinstance(filesystem, pa.fs.LocalFileSystem):
        paths = sorted(glob.glob(path))
    else:
        paths = _glob(filesystem, path)
    if not paths:
        raise DataError(
            f"{uri}: expected a Parquet file, a folder of *.parquet files, or a glob, found"
            f" {'a folder without any' if info.type == pa.fs.FileType.Directory else 'no file'};"
            " check the path"
        )
    return filesystem, paths


def _glob(filesystem: pa.fs.FileSystem, pattern: str) -> list[str]:
    folder = pattern.rpartition("/")[0]
    if any(sign in folder for sign in "*?["):
        raise DataError(f"{pattern}: expected wildcards in the last part of the path only")
    found = filesystem.get_file_info(pa.fs.FileSelector(folder, allow_not_found=True))
    return sorted(f.path for f in found if Path(f.path).match(pattern.rpartition("/")[2]))


def _resolve(uri: str) -> tuple[pa.fs.FileSystem, str]:
    if "://" not in uri:
        return pa.fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, path = pa.fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri}: expected a path or a URI, found: {_first_line(error)}") from error
    return filesystem, path


def _check_type(path: str, name: str, kind: pa.DataType, data: DataConfig) -> None:
    inner = kind.value_type if is_list(kind) else None
    number = pa.types.is_integer(inner or kind) or pa.types.is_floating(inner or kind)
    fits, wanted = True, ""
    if name in data.text:
        fits, wanted = pa.types.is_string(kind) or pa.types.is_large_string(kind), "string"
    elif name == data.indices:
        fits, wanted = inner is not None and pa.types.is_integer(inner), "list<int>"
    elif name == data.values:
        fits, wanted = inner is not None and number, "list<float>"
    elif name == data.dense:
        fits = pa.types.is_fixed_size_list(kind) and number
        wanted = "fixed_size_list<float>"
    elif name == data.labels:
        fits, wanted = pa.types.is_integer(inner or kind), "int or list<int>"
    elif name == data.weight:
        fits, wanted = inner is None and number, "float"
    if not fits:
        raise DataError(
            f"{path}: expected column '{name}' of type {wanted}, found {kind}; write it as that"
            " type, or name another column"
        )


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column holds a list in each row."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
