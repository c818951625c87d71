"""Row groups that a world leaves out because they cannot be trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from workers.config import DataConfig
from workers.errors import BadShardError, DataError, StorageError
from workers.shards.files import ShardSet
from workers.shards.order import Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows that are left out from one block on to the end of training."""

    shard: str
    """Its name, relative to the data set's folder."""
    row_group: int | None
    """None: a whole shard of which nobody knows the row groups."""
    rows: int
    """Of the row group; of an unknown shard, as many as its bytes let one expect."""
    epoch: int
    block: int
    """The first block without these rows."""
    why: str


class LeftOuts:
    """What is left out so far, and whether more may be.

    Belongs to the thread that reads; `entries` may be asked for from any.

    Args:
        shards: that the rows are of.
        data: says whether row groups may be left out, and how many rows.
        entries: what an earlier attempt had left out.

    Raises:
        BadShardError: if so many shards are lost that no block need be read to know that
            too many rows will be left out.
    """

    def __init__(self, shards: ShardSet, data: DataConfig, entries: Iterable[LeftOut] = ()) -> None:
        self._shards = shards
        self._names = [record.name for record in shards.records]
        self._data = data
        unknown = [_unknown(shards, shard) for shard in shards.lost if _is_unknown(shards, shard)]
        self._rows = shards.rows + sum(entry.rows for entry in unknown)
        by_group = {(entry.shard, entry.row_group): entry for entry in [*unknown, *entries]}
        self.entries: tuple[LeftOut, ...] = tuple(by_group.values())
        """In the order in which they were found."""
        self._since = {key: (entry.epoch, entry.block) for key, entry in by_group.items()}
        if shards.lost:
            self._check_budget(self._lost_rows(), BadShardError(min(shards.lost.values())))

    @property
    def rows(self) -> int:
        """Rows that are left out."""
        return sum(entry.rows for entry in self.entries)

    def has(self, piece: Slice, epoch: int, block: int) -> bool:
        """Return whether the row group of a slice is left out of a block."""
        since = self._since.get((self._names[piece.shard], piece.group))
        return since is not None and since <= (epoch, block)

    def add(self, piece: Slice, epoch: int, block: int, error: DataError) -> None:
        """Leave out a slice's row group from a block on.

        Raises:
            DataError: `error`, if nothing or no more may be left out.
        """
        rows = self._shards.group_rows(piece)
        self._check_budget(self.rows + rows, error)
        name = self._names[piece.shard]
        entry = LeftOut(
            shard=name,
            row_group=piece.group,
            rows=rows,
            epoch=epoch,
            block=block,
            why=str(error),
        )
        self.entries = (*self.entries, entry)
        self._since[name, piece.group] = epoch, block

    def _check_budget(self, rows: int, error: DataError) -> None:
        if self._data.on_bad_shard == "fail":
            raise error
        if rows > self._data.bad_rows_budget * self._rows:
            raise type(error)(
                f"{error}; without it, {rows:,} of {self._rows:,} rows would be left out, more"
                f" than data.bad_rows_budget = {self._data.bad_rows_budget} allows"
            )

    def _lost_rows(self) -> int:
        known = sum(sum(self._shards.records[shard].row_groups) for shard in self._shards.lost)
        return known + self._rows - self._shards.rows


def read_left_out(values: Any) -> list[LeftOut]:
    """Return the entries that `asdict` made plain.

    Raises:
        StorageError: if they are something else.
    """
    names = {item.name for item in fields(LeftOut)}
    if not isinstance(values, list) or not all(
        isinstance(value, Mapping) and set(value) == names for value in values
    ):
        raise StorageError(
            f"expected a list of row groups that were left out, found {values!r:.80};"
            " the checkpoint was altered: remove it"
        )
    return [LeftOut(**value) for value in values]


def _is_unknown(shards: ShardSet, shard: int) -> bool:
    return shards.records[shard].footer is None


def _unknown(shards: ShardSet, shard: int) -> LeftOut:
    known = sum(record.bytes for record in shards.records if record.footer)
    record = shards.records[shard]
    rows = record.bytes * shards.rows // max(1, known)
    return LeftOut(
        shard=record.name, row_group=None, rows=rows, epoch=0, block=0, why=shards.lost[shard]
    )
