"""The steps from pieces of files to shards, each a pure function of what the one before wrote.

    unpack  file i      ─▶ its bytes, if it is compressed
    cut     span i      ─▶ where rows end in it, of which the driver makes pieces
    read    piece i     ─▶ its rows, the names of their classes, and what is set aside
    know    classes i   ─▶ known classes, by the part of their name, if there are some
    count   names p     ─▶ the classes whose names are in part p, with how many rows have them
    number  piece i     ─▶ its rows with class ids, by the part of their query
    shard   queries q   ─▶ rows of part q: for training, validation and test

No step holds more than a piece, or a part, which are about as large. A step's file is there when
it is whole, so that a job that was cut short goes on with the steps whose files are missing; and
as each file follows from its inputs alone, it ends with the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.prepare import layout
from orchestrator.prepare.config import CLASSES, LABELS, UNPACKED, WEIGHT, WORK, PrepareConfig
from orchestrator.prepare.cutting import Look
from orchestrator.prepare.keys import Keys, Words, query_keys, text_keys
from orchestrator.prepare.merging import HIGH, LOW, merged_in_turn
from orchestrator.prepare.rows import NAMES
from orchestrator.prepare.sources import Source
from workers.shards import ShardSet
from workers.shards.locating import Files
from workers.storage import Retries, Storage
from workers.storage.wording import explained

SPLITS = ("train", "validation", "test")
GROUP_ROWS = 1 << 16
"""Rows of a row group of what is written: some are read side by side and shuffled."""

_DROPPED = -1
"""In place of a class that is left out."""


_LOOK = pa.schema([("after", pa.list_(pa.int64())), ("cuts", pa.list_(pa.list_(pa.int64())))])


class Stages:
    """The steps of one job.

    Args:
        config: of the job.
        source: its files.
        storage: of the folder that is written.
    """

    def __init__(self, config: PrepareConfig, source: Source, storage: Storage) -> None:
        self._config = config
        self._source = source
        self._storage = storage

    def unpack(self, file: int) -> None:
        """Unpack a compressed file."""
        name = self._source.packed[file]
        path = self.path(f"unpacked/{file:05d}")
        self._storage.write_file(path, lambda place: self._source.unpack(name, place))

    def cut(self, span: int) -> None:
        """Look where rows end in a part of a file."""
        look = self._source.look(self._source.spans[span])
        self._write(f"cut/{span:05d}", [pa.table([[part] for part in look], schema=_LOOK)])

    def looks(self) -> Iterator[Look]:
        """Yield what was seen in each part."""
        for span in range(len(self._source.spans)):
            (found,) = self._table(f"cut/{span:05d}").to_pylist()
            yield Look(**found)

    def read(self, piece: int) -> None:
        """Read a piece."""
        rows, aside = self._source.read(self._layout.pieces[piece])
        keys = self._keys(rows)
        lists = rows.column(NAMES).combine_chunks()
        flat = lists.flatten().dictionary_encode()
        names, codes = _by_part(flat.dictionary, self._layout.parts)
        local = pa.array(codes[flat.indices.to_numpy()].astype(np.int32))
        counts = np.bincount(local.to_numpy(), minlength=len(names.flat))
        offsets = lists.offsets.to_numpy().astype(np.int32)
        columns = {
            **{name: rows.column(name) for name in self._inputs()},
            NAMES: pa.ListArray.from_arrays(pa.array(offsets - offsets[0]), local),
            WEIGHT: rows.column(WEIGHT) if self._config.weight else _ones(rows.num_rows),
            HIGH: pa.array(keys.high),
            LOW: pa.array(keys.low),
        }
        self._write(f"aside/{piece:05d}", [aside])
        counted = pa.table({"name": names.flat, "count": pa.array(counts)})
        self._write(f"names/{piece:05d}", _slices(counted, names.ends))
        # Last: a piece whose rows are there is read.
        self._write(f"rows/{piece:05d}", [pa.table(columns)])

    def know(self, group: int) -> None:
        """Sort some known classes by the part of their name."""
        assert self._config.classes is not None
        shards = ShardSet(self._config.classes)
        (place,) = shards.groups[group : group + 1]
        batches = list(shards.read(place, ["id", "name"]))
        table = pa.Table.from_batches(batches).combine_chunks()
        names, places = _by_part(table.column("name").combine_chunks(), self._layout.parts)
        ids = np.empty(len(places), np.int64)
        ids[places] = table.column("id").to_numpy()
        self._write(
            f"known/{group:05d}", _slices(pa.table({"name": names.flat, "id": ids}), names.ends)
        )

    def count(self, part: int) -> None:
        """Count the classes of a part of the names, and rank those that are not left out.

        Ranks are ids already where classes are known.
        """
        found = [self._group(f"names/{i:05d}", part) for i in range(len(self._layout.pieces))]
        whole = pa.concat_tables(found).combine_chunks()
        names = whole.column("name").combine_chunks().dictionary_encode()
        codes = names.indices.to_numpy()
        counts = np.zeros(len(names.dictionary), np.int64)
        np.add.at(counts, codes, whole.column("count").to_numpy())
        order = pc.sort_indices(names.dictionary).to_numpy().astype(np.int64)
        if self._layout.known:
            ranks = self._known_ids(names.dictionary, part)
            order = order[ranks[order] != _DROPPED]
        else:
            order = order[counts[order] >= self._config.min_count]
            ranks = np.full(len(counts), _DROPPED, np.int64)
            ranks[order] = np.arange(len(order))
        ends = np.cumsum([each.num_rows for each in found])
        self._write(f"ranks/{part:05d}", _slices(pa.table({"rank": ranks[codes]}), ends))
        kept = pa.table({"name": names.dictionary.take(pa.array(order)), "count": counts[order]})
        self._write(f"classes/{part:05d}", [kept])

    def _known_ids(self, names: pa.Array, part: int) -> NDArray[np.int64]:
        groups = range(self._layout.known)
        known = pa.concat_tables([self._group(f"known/{i:05d}", part) for i in groups])
        found = pc.index_in(names, known.column("name").combine_chunks().cast(names.type))
        places = pc.fill_null(found, _DROPPED).to_numpy()
        ids: NDArray[np.int64] = np.append(known.column("id").to_numpy(), _DROPPED)[places]
        return ids

    def number(self, piece: int, first_ids: NDArray[np.int64]) -> None:
        """Give the rows of a piece their class ids; those that are left without a class go.

        Args:
            piece: its number.
            first_ids: (parts,) of the classes of each part of the names; 0 where they are known.
        """
        ids = []
        for part, first in enumerate(first_ids.tolist()):
            ranks = self._group(f"ranks/{part:05d}", piece).column("rank").to_numpy()
            ids.append(np.where(ranks == _DROPPED, _DROPPED, ranks + first))
        rows = self._table(f"rows/{piece:05d}")
        names = rows.column(NAMES).combine_chunks()
        mine = np.concatenate(ids)[names.flatten().to_numpy()]
        owners = np.repeat(np.arange(len(names)), np.diff(names.offsets.to_numpy()))
        kept = mine != _DROPPED
        mine, owners = mine[kept], owners[kept]
        order = np.lexsort((mine, owners))
        counts = np.bincount(owners, minlength=len(names))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        labels = pa.ListArray.from_arrays(pa.array(offsets), pa.array(mine[order]))
        place = rows.schema.get_field_index(NAMES)
        rows = rows.set_column(place, LABELS, labels).filter(pa.array(counts > 0))
        parts = Keys(rows.column(HIGH).to_numpy(), rows.column(LOW).to_numpy())
        groups = parts.parts(self._layout.parts)
        order = np.argsort(groups, kind="stable")
        ends = np.cumsum(np.bincount(groups, minlength=self._layout.parts))
        self._write(f"numbered/{piece:05d}", _slices(rows.take(pa.array(order)), ends))

    def shard(self, part: int) -> None:
        """Write the shards of a part of the queries."""
        pieces = range(len(self._layout.pieces))
        groups = (self._group(f"numbered/{i:05d}", part) for i in pieces)
        weigh = self._config.repeats == "weigh"
        rows = merged_in_turn(groups) if weigh else pa.concat_tables(groups)
        where = splits(rows.column(LOW).to_numpy(), self._config.validation, self._config.test)
        rows = rows.drop_columns([HIGH, LOW])
        for number, split in reversed(list(enumerate(SPLITS))):
            mine = rows.filter(pa.array(where == number))
            self._write(f"{split}/part-{part:05d}", [mine], GROUP_ROWS)

    def classes(self) -> None:
        """Write the classes with their ids."""

        def tables() -> Iterator[pa.Table]:
            first = 0
            for part in range(self._layout.parts):
                found = self._table(f"classes/{part:05d}")
                ids = pa.array(np.arange(first, first + found.num_rows))
                first += found.num_rows
                yield found.add_column(0, "id", ids)

        self._write(CLASSES, tables(), GROUP_ROWS)

    @cached_property
    def _files(self) -> Files:
        return Files(self._storage.uri, Retries())

    @cached_property
    def _layout(self) -> layout.Layout:
        return layout.read(self._storage)

    def _inputs(self) -> list[str]:
        config = self._source.config
        return [name for name in (*config.text, config.indices, config.values) if name]

    def _keys(self, rows: pa.Table) -> Keys:
        config = self._source.config
        return query_keys(rows, config.text, config.indices, config.values)

    def _write(self, path: str, tables: Iterable[pa.Table], rows: int | None = None) -> None:
        """Write a file: each table a row group, or of a result, groups of so many rows."""

        def write(place: Path) -> None:
            left = iter(tables)
            first = next(left)
            with pq.ParquetWriter(place, first.schema, write_page_checksum=True) as file:
                for table in itertools.chain([first], left):
                    file.write_table(table, row_group_size=rows or max(1, table.num_rows))

        self._storage.write_file(self.path(path), write)

    @staticmethod
    def path(name: str) -> str:
        """Return the path of a file of a job."""
        folder = "" if name.split("/")[0] in (*SPLITS, CLASSES) else f"{WORK}/"
        path = f"{folder}{name}"
        return path if path.startswith(UNPACKED) or path.endswith(".parquet") else f"{path}.parquet"

    def open(self, name: str) -> pq.ParquetFile:
        """Return a file of a job; of an object store, only what is read of it comes here."""
        with explained(self._storage.where(self.path(name))):
            opened = self._files.open(f"{self._files.path.rstrip('/')}/{self.path(name)}")
            return pq.ParquetFile(opened)

    def _group(self, name: str, group: int) -> pa.Table:
        with self.open(name) as file:
            return file.read_row_group(group, use_threads=False)

    def _table(self, name: str) -> pa.Table:
        with self.open(name) as file:
            return file.read(use_threads=False)


class Named(NamedTuple):
    """Names by their part."""

    flat: pa.Array
    """(n,) of the first part, then of the second, and so on."""
    ends: NDArray[np.int64]
    """(parts,) where each part's end."""


def _by_part(names: pa.Array, parts: int) -> tuple[Named, NDArray[np.int64]]:
    """Return names by their part, and where each one went."""
    groups = text_keys(names).parts(parts)
    order = np.argsort(groups, kind="stable")
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    ends = np.cumsum(np.bincount(groups, minlength=parts))
    return Named(names.take(pa.array(order)), ends), places


def splits(words: Words, validation: float, test: float) -> NDArray[np.int64]:
    """Return in which of `SPLITS` each query is: the same query in the same, whatever is beside it.

    Args:
        words: (n,) half of their keys.
        validation: the share of all queries for it.
        test: likewise.
    """
    # Another 53 bits than those that tell its part.
    at = (words >> np.uint64(11)).astype(np.float64) / 2**53
    return np.where(at < test, 2, np.where(at < test + validation, 1, 0))


def _slices(table: pa.Table, ends: NDArray[np.int64]) -> list[pa.Table]:
    return [
        table.slice(start, stop - start)
        for start, stop in itertools.pairwise([0, *(int(end) for end in ends)])
    ]


def _ones(rows: int) -> pa.Array:
    return pa.array(np.ones(rows, np.float32))
