"""The Parquet files of a data set, on any pyarrow filesystem."""

from __future__ import annotations

import errno
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workers.config import DataConfig
from workers.errors import BadShardError, DataError
from workers.shards.checks import check_type
from workers.shards.locating import find
from workers.shards.order import Slice
from workers.shards.records import ShardRecord, changed, plain, read_records, record_of
from workers.storage import Retries, Storage
from workers.storage.node_cache import NodeCache
from workers.storage.wording import explained

_BUFFER = 1 << 20
"""Bytes of a column that are read at once; without it Arrow holds whole row groups."""
_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EIO)
"""What a disk says of a file that is not there, cut short, or on a bad sector."""
_TAIL = 1 << 16
"""Bytes that are read from the end of a file first; most footers are smaller."""
_OPENERS = 16
"""Shards whose footers are read at the same time."""
_OPEN_FILES = 64
"""Shards that are held open, so that their footers are read once."""


class ShardSet:
    """The Parquet files of one data set, opened and checked.

    Args:
        uri: a file, a folder of *.parquet, or a glob; any pyarrow filesystem.
        known: what `fingerprint` returned when the run began: the files must be the same.
            Files that came later are left alone. None: take what is there.
        lenient: keep shards that are missing, changed or unreadable in `lost` instead of
            raising; reading a row group of theirs raises then.
        cache: where copies of the files are kept on this machine; None: nowhere.
        retries: how requests to a server are tried again; None: for up to two minutes.

    All that reads raises `StorageUnreachable` if a server does not answer in spite of them.

    Raises:
        DataError: if there is no Parquet file or no row.
        BadShardError: if a file is not Parquet, cut short, or not what `known` says.
        StorageError: if `known` is no fingerprint.
    """

    def __init__(
        self,
        uri: str,
        *,
        known: Mapping[str, Any] | None = None,
        lenient: bool = False,
        cache: NodeCache | None = None,
        retries: Retries | None = None,
    ) -> None:
        self.uri = uri
        self._found = find(uri, retries)
        self._lenient = lenient
        self.lost: dict[int, str] = {}
        """What is wrong with each shard that cannot be read at all, by number."""
        self._survey(None if known is None else read_records(known, f"data set {uri}"))
        self.groups = [
            Slice(number, group, 0, rows)
            for number, shard in enumerate(self.records)
            for group, rows in enumerate(shard.row_groups)
            if rows
        ]
        self._rows = {(group.shard, group.group): group.rows for group in self.groups}
        self.rows = sum(self._rows.values())
        if not self.rows:
            raise DataError(
                f"{uri}: expected rows, found {len(self.paths)} Parquet files without any;"
                " check what wrote them"
            )
        self._copies = _Copies(self._found.storage_uri, cache, self.records)
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    @property
    def sizes(self) -> list[int]:
        """Bytes of each shard."""
        return [shard.bytes for shard in self.records]

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this data set from another: each shard's name, shape and footer."""
        return {"rows": self.rows, "shards": [plain(shard) for shard in self.records]}

    def check_columns(self, data: DataConfig, *, labels: bool = True) -> None:
        """Check that every shard has the columns that `data` names, of types that fit.

        Raises:
            DataError: names the shard, the column, the type and what is there.
        """
        readable = [shard for shard in range(len(self.paths)) if shard not in self.lost]
        for shard in readable:
            path, schema = self.paths[shard], self.schemas[shard]
            for name in data.columns(labels=labels):
                if name not in schema.names:
                    raise DataError(
                        f"{path}: expected a column '{name}', found only"
                        f" {', '.join(schema.names)}; name the columns with data.text,"
                        " data.indices, data.dense and data.labels"
                    )
                kind = schema.field(name).type
                first = self.schemas[readable[0]].field(name).type
                check_type(name, kind, data, path)
                if kind != first:
                    raise DataError(
                        f"{path}: expected column '{name}' of type {first}, as in"
                        f" {self.paths[readable[0]]}, found {kind};"
                        " write all shards with one schema"
                    )

    def group_rows(self, piece: Slice) -> int:
        """Return how many rows the row group has that a slice belongs to."""
        return self._rows[piece.shard, piece.group]

    def where(self, piece: Slice) -> str:
        """Return the words that name a slice to a user."""
        return f"{self.paths[piece.shard]}, row group {piece.group}"

    def read(self, piece: Slice, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a slice's row group, in order, as batches of up to `piece.rows`.

        Raises:
            BadShardError: names the shard, the row group and what Arrow found.
        """
        try:
            yield from self._file(piece).iter_batches(
                piece.rows, row_groups=[piece.group], columns=list(columns), use_threads=False
            )
        except (pa.ArrowException, OSError) as error:
            _pass_on(error, self.where(piece))
            raise BadShardError(
                f"{self.where(piece)}: expected readable Parquet, found: {_first_line(error)};"
                " restore the file, or train without it by data.on_bad_shard=skip"
            ) from error

    def has_copy(self, shard: int) -> bool:
        """Return whether a shard is read from a copy on this machine, where that can be."""
        return self._copies.has(shard)

    def drop_copy(self, shard: int) -> bool:
        """Remove this machine's copy of a shard for good; return whether there was one."""
        self._files.pop(shard, None)
        return self._copies.drop(shard)

    def _survey(self, known: list[ShardRecord] | None) -> None:
        names = list(self._found.sizes) if known is None else [shard.name for shard in known]
        self.paths = [self._found.path(name) for name in names]
        wanted = [None] * len(names) if known is None else known
        with ThreadPoolExecutor(min(_OPENERS, len(names) or 1)) as pool:
            opened = list(pool.map(self._admit, range(len(names)), names, wanted))
        self.records = [shard for shard, _ in opened]
        self.schemas = [schema for _, schema in opened]

    def _admit(
        self, shard: int, name: str, known: ShardRecord | None
    ) -> tuple[ShardRecord, pa.Schema]:
        """Return what a shard is like; what it should be like where it is lost."""
        path = self.paths[shard]
        try:
            if name not in self._found.sizes:
                raise BadShardError(
                    f"{path}: expected the shard that the run began with, found no file;"
                    " restore it, or begin another run with run=..."
                )
            found, file = _open(path, name, lambda: self._found.open(name))
            if known and found != known:
                raise BadShardError(changed(path, known, found))
            return found, file.schema_arrow
        except BadShardError as error:
            if not self._lenient:
                raise
            self.lost[shard] = str(error)
            return known or ShardRecord(name, self._found.sizes[name]), pa.schema([])

    def _file(self, piece: Slice) -> pq.ParquetFile:
        shard = piece.shard
        if shard in self.lost:
            raise BadShardError(self.lost[shard])
        if shard not in self._files:
            known, where = self.records[shard], self.where(piece)
            found, file = _open(where, known.name, lambda: self._source(shard))
            if found != known:
                raise BadShardError(changed(where, known, found))
            self._files[shard] = file
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(shard)
        return self._files[shard]

    def _source(self, shard: int) -> pa.NativeFile:
        copy = self._copies.open(shard)
        return copy or self._found.open(self.records[shard].name)


class _Copies:
    # This machine's copies of the shards.

    def __init__(
        self, uri: str | None, cache: NodeCache | None, records: Sequence[ShardRecord]
    ) -> None:
        self._cache = cache
        self._keys: dict[int, str] = {}
        self._records = records
        if cache is None or uri is None:
            return
        self._storage = Storage(uri)
        # The shards that fit together, always the same: taking turns in too small a cache
        # would fetch a whole shard for each row group.
        room = cache.limit
        for shard, record in enumerate(records):
            if record.footer and record.bytes <= room:
                room -= record.bytes
                version = f"{uri}\n{record.name}\n{record.bytes}\n{record.footer}"
                self._keys[shard] = hashlib.sha256(version.encode()).hexdigest()

    def open(self, shard: int) -> pa.NativeFile | None:
        if self._cache is None or shard not in self._keys:
            return None
        record = self._records[shard]
        return self._cache.open(self._storage, record.name, self._keys[shard], record.bytes)

    def has(self, shard: int) -> bool:
        return shard in self._keys

    def drop(self, shard: int) -> bool:
        if self._cache is None or shard not in self._keys:
            return False
        self._cache.drop(self._keys.pop(shard))
        return True


def _open(
    where: str, name: str, source: Callable[[], pa.NativeFile]
) -> tuple[ShardRecord, pq.ParquetFile]:
    """Return a Parquet file and what it is like; its footer is read once."""
    try:
        file = source()
        footer = _footer(file)
        ends = pq.ParquetFile(pa.BufferReader(footer))
        parquet = pq.ParquetFile(
            file,
            metadata=ends.metadata,
            buffer_size=_BUFFER,
            pre_buffer=False,
            page_checksum_verification=True,
        )
        return record_of(name, file.size(), footer, ends), parquet
    except (pa.ArrowException, OSError) as error:
        _pass_on(error, where)
        raise BadShardError(
            f"{where}: expected a Parquet file, found: {_first_line(error)};"
            " restore the file, or train without it by data.on_bad_shard=skip"
        ) from error


def _footer(file: pa.NativeFile) -> bytes:
    """Return the end of a file that has the metadata; the whole of a file that is shorter."""
    size = file.size()
    tail: bytes = file.read_at(min(size, _TAIL), max(0, size - _TAIL))
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if needed > len(tail) and needed <= size:
        tail = file.read_at(needed, size - needed)
    return tail[-needed:]


def read_table(uri: str, columns: Sequence[str]) -> pa.Table:
    """Return whole columns of small Parquet files, such as class names.

    Raises:
        DataError: if there is no such file or column.
        BadShardError: if a file cannot be read.
    """
    found = find(uri)
    try:
        tables = []
        for name in found.sizes:
            # Not by Arrow's `read_table`: that reads in threads whatever it is told, and they hang
            # or abort a process that ends soon after (apache/arrow#50482, #34314).
            with pq.ParquetFile(found.open(name)) as file:
                table = file.read(columns=list(columns), use_threads=False)
            tables.append(table.select(columns))
        return pa.concat_tables(tables, promote_options="default")
    except (KeyError, pa.ArrowException, OSError) as error:
        _pass_on(error, uri)
        raise BadShardError(
            f"{uri}: expected Parquet with columns {', '.join(columns)},"
            f" found: {_first_line(error)}"
        ) from error


def _pass_on(error: Exception, where: str) -> None:
    """Raise what says nothing of the file: no memory, or a disk that does not let it be read."""
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, OSError) and error.errno not in (None, *_OF_THE_FILE):
        with explained(where):
            raise error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
