"""Blocks of rows: read, checked, shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.config import DataConfig
from workers.errors import BadShardError
from workers.hashing import derive_seed
from workers.partition import Permutation
from workers.shards.checks import check_rows
from workers.shards.files import ShardSet
from workers.shards.order import Position, Slice, plan_epoch

_READ_ROWS = 16_384
"""Rows that Arrow decodes at a time."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are shuffled together."""

    epoch: int
    index: int
    pieces: tuple[Slice, ...]
    table: pa.Table


class _Reader:
    # Reads slices, and keeps the row groups open that are read in part.

    def __init__(
        self,
        shards: ShardSet,
        data: DataConfig,
        *,
        labels: str = "required",
        more_columns: Sequence[str] = (),
    ) -> None:
        self._shards = shards
        self._data = data
        self._labels = labels
        own = data.columns(labels=labels != "none")
        self._columns = list(dict.fromkeys([*own, *more_columns]))
        self._open: dict[tuple[int, int], _Cursor] = {}

    def read(self, pieces: Sequence[Slice]) -> pa.Table:
        tables = [self._read(piece) for piece in pieces]
        # Shards may differ in which columns may hold nulls.
        return pa.concat_tables(tables, promote_options="default").combine_chunks()

    def _read(self, piece: Slice) -> pa.Table:
        key = piece.shard, piece.group
        cursor = self._open.pop(key, None)
        if cursor is None or cursor.at > piece.start:
            cursor = _Cursor(self._shards, piece, self._columns)
        cursor.skip_to(piece.start)
        # Each shard has its own order of columns.
        table = cursor.take(piece.rows).select(self._columns)
        if cursor.at < cursor.rows:
            self._open[key] = cursor
        check_rows(table, self._data, self._shards.where(piece), piece.start, labels=self._labels)
        return table


class _Cursor:
    # One row group, read in order.

    def __init__(self, shards: ShardSet, piece: Slice, columns: Sequence[str]) -> None:
        self._where = shards.where(piece)
        self.rows = shards.group_rows(piece)
        self.at = 0
        small = Slice(piece.shard, piece.group, 0, min(_READ_ROWS, self.rows))
        self._batches = shards.read(small, columns)
        self._rest: list[pa.RecordBatch] = []

    def skip_to(self, row: int) -> None:
        while self.at < row:
            self.take(min(_READ_ROWS, row - self.at))

    def take(self, rows: int) -> pa.Table:
        have = sum(len(batch) for batch in self._rest)
        while have < rows:
            batch = next(self._batches, None)
            if batch is None:
                raise BadShardError(
                    f"{self._where}: expected {self.rows} rows, found {self.at + have};"
                    " restore the file, or take it out of the data set"
                )
            self._rest.append(batch)
            have += len(batch)
        table = pa.Table.from_batches(self._rest)
        self._rest = table.slice(rows).to_batches()
        self.at += rows
        return table.slice(0, rows)


def shuffled_blocks(
    shards: ShardSet,
    data: DataConfig,
    *,
    seed: int,
    world: int,
    epochs: int,
    start: Position,
) -> Iterator[Block]:
    """Yield blocks from `start` on, their rows in shuffled order.

    The first block is whole even where `start.row` is past its first row.

    Raises:
        DataError: if rows hold nulls, or labels that are missing or outside [0, K).
        BadShardError: if a shard cannot be read.
    """
    for epoch in range(start.epoch, epochs):
        blocks = plan_epoch(
            shards.groups, block_rows=data.block_rows, seed=seed, world=world, epoch=epoch
        )
        reader = _Reader(shards, data)
        first = start.block if epoch == start.epoch else 0
        for index in range(first, len(blocks)):
            table = reader.read(blocks[index])
            order = Permutation(table.num_rows, derive_seed(seed, world, "rows", epoch, index))
            shuffled = table.take(order.forward(np.arange(table.num_rows)))
            yield Block(epoch, index, tuple(blocks[index]), shuffled)


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
            yield reader.read([Slice(group.shard, group.group, start, size)])
        left -= min(group.rows, left)
