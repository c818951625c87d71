"""Blocks of rows: read, checked, shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.config import DataConfig
from workers.errors import BadShardError, DataError
from workers.hashing import derive_seed
from workers.permutation import Permutation
from workers.shards.checks import check_rows
from workers.shards.content import PIECE_ROWS, Content, piece_hash
from workers.shards.files import ShardSet
from workers.shards.left_out import LeftOut, LeftOuts
from workers.shards.order import Position, Slice, plan_epoch


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are shuffled together."""

    epoch: int
    index: int
    pieces: tuple[Slice, ...]
    """What the rows are, before they were shuffled."""
    table: pa.Table
    left_out: tuple[LeftOut, ...]
    """All that was left out up to this block."""


class _Reader:
    # Reads slices, and keeps the row groups open that are read in part.

    def __init__(
        self,
        shards: ShardSet,
        data: DataConfig,
        *,
        labels: str = "required",
        more_columns: Sequence[str] = (),
        content: Content | None = None,
    ) -> None:
        self._shards = shards
        self._data = data
        self._labels = labels
        own = data.columns(labels=labels != "none")
        self._columns = list(dict.fromkeys([*own, *more_columns]))
        self._content = content
        self._open: dict[tuple[int, int], _Cursor] = {}

    def read(self, piece: Slice) -> pa.Table:
        key = piece.shard, piece.group
        cursor = self._open.pop(key, None)
        if cursor is None or cursor.at > piece.start:
            cursor = _Cursor(self._shards, piece, self._columns, self._check)
        cursor.skip_to(piece.start)
        table = cursor.take(piece.rows)
        if cursor.at < cursor.rows:
            self._open[key] = cursor
        return table

    def _check(self, group: Slice, number: int, table: pa.Table) -> None:
        where, first_row = self._shards.where(group), number * PIECE_ROWS
        if self._content is None:
            check_rows(table, self._data, where, first_row, labels=self._labels)
            return
        name, found = self._shards.records[group.shard].name, piece_hash(table)
        self._content.check(name, group.group, number, found, where)
        check_rows(table, self._data, where, first_row, labels=self._labels)
        self._content.add(name, group.group, number, found)


class _Cursor:
    # One row group, decoded and checked in order, in pieces of PIECE_ROWS rows.

    def __init__(
        self,
        shards: ShardSet,
        group: Slice,
        columns: Sequence[str],
        check: Callable[[Slice, int, pa.Table], None],
    ) -> None:
        self._shards = shards
        self._group = Slice(group.shard, group.group, 0, PIECE_ROWS)
        self._columns = list(columns)
        self._check = check
        self.rows = shards.group_rows(group)
        self.at = 0
        self._pieces = 0
        self._ready = 0
        self._tables: list[pa.Table] = []
        self._start()

    def skip_to(self, row: int) -> None:
        while self.at < row:
            self.take(min(PIECE_ROWS, row - self.at))

    def take(self, rows: int) -> pa.Table:
        while self._ready < rows:
            self._tables.append(self._next_piece())
            self._ready += self._tables[-1].num_rows
        table = pa.concat_tables(self._tables)
        self._ready -= rows
        self._tables = [table.slice(rows)] if self._ready else []
        self.at += rows
        return table.slice(0, rows)

    def _next_piece(self) -> pa.Table:
        try:
            table = self._checked_piece()
        except DataError:
            # A copy on this machine may be worse than what it is a copy of; that of another row
            # group may have been found out before.
            dropped = self._shards.drop_copy(self._group.shard)
            if not (dropped or self._on_copy):
                raise
            self._start()
            for _ in range(self._pieces):
                self._decoded(PIECE_ROWS)
            table = self._checked_piece()
        self._pieces += 1
        return table

    def _checked_piece(self) -> pa.Table:
        rows = min(PIECE_ROWS, self.rows - self._pieces * PIECE_ROWS)
        table = self._decoded(rows)
        self._check(self._group, self._pieces, table)
        return table

    def _start(self) -> None:
        self._on_copy = self._shards.has_copy(self._group.shard)
        self._batches = self._shards.read(self._group, self._columns)
        self._rest: list[pa.RecordBatch] = []

    def _decoded(self, rows: int) -> pa.Table:
        have = sum(len(batch) for batch in self._rest)
        while have < rows:
            batch = next(self._batches, None)
            if batch is None:
                found = self._pieces * PIECE_ROWS + have
                raise BadShardError(
                    f"{self._shards.where(self._group)}: expected {self.rows} rows, found {found};"
                    " restore the file, or train without it by data.on_bad_shard=skip"
                )
            self._rest.append(batch)
            have += len(batch)
        table = pa.Table.from_batches(self._rest)
        self._rest = table.slice(rows).to_batches()
        # Each shard has its own order of columns.
        return _with_long_offsets(table.slice(0, rows).select(self._columns))


def _with_long_offsets(table: pa.Table) -> pa.Table:
    # The texts of one block may come to more bytes than 32 bits can count.
    return table.cast(pa.schema([field.with_type(_long(field.type)) for field in table.schema]))


def _long(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string(kind):
        return pa.large_string()
    return pa.large_list(kind.value_field) if pa.types.is_list(kind) else kind


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    # Shards may differ in which columns may hold nulls.
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def shuffled_blocks(
    shards: ShardSet,
    data: DataConfig,
    *,
    seed: int,
    world: int,
    epochs: int,
    start: Position,
    content: Content,
    left_out: LeftOuts,
) -> Iterator[Block]:
    """Yield blocks from `start` on, their rows in shuffled order.

    The first block is whole even where `start.row` is past its first row. Blocks of which
    all rows are left out do not come.

    Args:
        shards: to read.
        data: names the columns, and how many rows may be left out.
        seed: of the run.
        world: its index.
        epochs: to go through.
        start: where to begin.
        content: what was read before; gets what is read.
        left_out: what was left out before; gets what is left out.

    Raises:
        DataError: if rows hold nulls, or labels that are missing or outside [0, K).
        BadShardError: if a shard cannot be read, or is not what was read before.
    """
    for epoch in range(start.epoch, epochs):
        blocks = plan_epoch(
            shards.groups, block_rows=data.block_rows, seed=seed, world=world, epoch=epoch
        )
        reader = _Reader(shards, data, content=content)
        first = start.block if epoch == start.epoch else 0
        for index in range(first, len(blocks)):
            table, pieces = _read_block(reader, blocks[index], epoch, index, left_out)
            if table is None:
                continue
            order = Permutation(table.num_rows, derive_seed(seed, world, "rows", epoch, index))
            shuffled = table.take(order.forward(np.arange(table.num_rows)))
            yield Block(epoch, index, pieces, shuffled, left_out.entries)


def _read_block(
    reader: _Reader, planned: Sequence[Slice], epoch: int, index: int, left_out: LeftOuts
) -> tuple[pa.Table | None, tuple[Slice, ...]]:
    """Return the rows of a block that can be read, and what they are."""
    tables: dict[Slice, pa.Table] = {}
    for piece in planned:
        if left_out.has(piece, epoch, index):
            continue
        try:
            tables[piece] = reader.read(piece)
        except DataError as error:
            left_out.add(piece, epoch, index, error)
    # A row group may fail in a later one of its slices.
    pieces = tuple(piece for piece in tables if not left_out.has(piece, epoch, index))
    return _joined([tables[piece] for piece in pieces]) if pieces else None, pieces


def tables_in_order(
    shards: ShardSet,
    data: DataConfig,
    *,
    rows: int,
    limit: int | None = None,
    more_columns: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """Yield a data set's rows in the order of its files, at most `rows` at a time.

    Rows without labels are let through: they are for whoever measures to count.

    Args:
        shards: to read.
        data: names the columns.
        rows: of a table, at most.
        limit: of rows in all; None: all.
        more_columns: to read beside those that `data` names.

    Raises:
        DataError: if rows hold nulls, or labels outside [0, K).
        BadShardError: if a shard cannot be read.
    """
    reader = _Reader(shards, data, labels="optional", more_columns=more_columns)
    left = shards.rows if limit is None else limit
    for group in shards.groups:
        for start in range(0, min(group.rows, left), rows):
            size = min(rows, group.rows - start, left - start)
            yield _joined([reader.read(Slice(group.shard, group.group, start, size))])
        left -= min(group.rows, left)
