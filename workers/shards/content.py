"""Hashes of what was read of each row group, so that a later read must find the same.

Parquet's own checksums are optional and most writers leave them out: flipped
bytes inside a page may decode to other numbers without any error. So a row
group's content, as decoded, is hashed in pieces of `PIECE_ROWS` rows before any
of them is used: the first 16 bytes of the sha256 of the columns that are used.
That costs about a second for each GB of decoded columns on one core, in the
thread that reads.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.errors import ContradictionError, StorageError

PIECE_ROWS = 16_384
"""Rows that are decoded, hashed and checked together."""
_SIZE = 16

Table = dict[str, dict[str, list[str]]]
"""By shard and by number of row group: the hash of each piece, in order."""


class Content:
    """What one world read; safe to use from several threads.

    Args:
        known: what another world of the run read, which must be read again (`to_dict`).

    Raises:
        StorageError: if `known` is no such table.
    """

    def __init__(self, known: Mapping[str, Any] | None = None) -> None:
        self._known = _parsed(known or {})
        self._read: Table = {}
        self._lock = threading.Lock()

    def check(self, shard: str, group: int, piece: int, found: str, where: str) -> None:
        """Compare a piece with its earlier reads, if there were any.

        Args:
            shard: its name.
            group: number of the row group.
            piece: number within the row group.
            found: hash of the piece (`piece_hash`).
            where: the words that name the row group in an error.

        Raises:
            ContradictionError: it was other content then.
        """
        with self._lock:
            for table in (self._known, self._read):
                earlier = table.get(shard, {}).get(str(group), [])
                if piece < len(earlier) and earlier[piece] != found:
                    raise ContradictionError(_changed(where, piece, earlier[piece], found))

    def add(self, shard: str, group: int, piece: int, found: str) -> None:
        """Remember a piece; those of one row group come in order, again and again."""
        with self._lock:
            pieces = self._read.setdefault(shard, {}).setdefault(str(group), [])
            if piece == len(pieces):
                pieces.append(found)

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take up what an earlier attempt at this world read (`to_dict`).

        Raises:
            StorageError: if `values` are no such table.
            ContradictionError: if what is known of the run is another.
        """
        read = _parsed(values)
        merge_content(self._known, read)
        with self._lock:
            self._read = read

    def to_dict(self) -> Table:
        """Return the hashes of all pieces read so far, ready for JSON."""
        with self._lock:
            return _ordered(self._read)

    def digest(self) -> str:
        """Return one sha256 over all of `to_dict()`, of 64 hexadecimal digits."""
        whole = hashlib.sha256()
        for shard, groups in self.to_dict().items():
            for group, pieces in groups.items():
                whole.update(f"{len(shard)} {shard} {group} {' '.join(pieces)}\n".encode())
        return whole.hexdigest()


def merge_content(kept: Mapping[str, Any], found: Mapping[str, Any]) -> Table:
    """Return what two worlds read between them.

    Args:
        kept: `Content.to_dict()` of the worlds before.
        found: of one more world.

    Raises:
        ContradictionError: they read other content in the same place; names shard and row group.
        StorageError: one of them is no such table.
    """
    merged = _parsed(kept)
    for shard, groups in _parsed(found).items():
        for group, pieces in groups.items():
            earlier = merged.setdefault(shard, {}).setdefault(group, [])
            for number, (one, other) in enumerate(zip(earlier, pieces, strict=False)):
                if one != other:
                    raise ContradictionError(
                        _changed(f"{shard}, row group {group}", number, one, other)
                    )
            earlier.extend(pieces[len(earlier) :])
    return _ordered(merged)


def piece_hash(table: pa.Table) -> str:
    """Return a hash of rows that depends on their values alone, not on how they lie in memory.

    Args:
        table: columns of numbers, or of large strings or large or fixed-size lists of numbers.
    """
    whole = hashlib.sha256()
    for column in table.itercolumns():
        _update(whole, column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
    return whole.hexdigest()[: 2 * _SIZE]


def _update(whole: Any, values: pa.Array) -> None:
    whole.update(f"{len(values)} {values.null_count} ".encode())
    if values.null_count:
        whole.update(pc.is_null(values).cast(pa.int8()).to_numpy())
        # What lies in memory under a null may be anything.
        values = values.drop_null()
    if pa.types.is_fixed_size_list(values.type):
        _update(whole, values.flatten())
    elif pa.types.is_large_list(values.type):
        whole.update(pc.list_value_length(values).to_numpy())
        _update(whole, values.flatten())
    elif pa.types.is_large_string(values.type):
        whole.update(pc.binary_length(values).to_numpy())
        whole.update(_text(values))
    else:
        whole.update(values.to_numpy())


def _text(strings: pa.LargeStringArray) -> memoryview:
    _, offsets, text = strings.buffers()
    if not len(strings) or text is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int64)
    return memoryview(text)[ends[strings.offset] : ends[strings.offset + len(strings)]]


def _changed(where: str, piece: int, earlier: str, found: str) -> str:
    return (
        f"{where}, rows from {piece * PIECE_ROWS}: expected the content of the first read"
        f" (hash {earlier[:8]}…), found other content ({found[:8]}…): the file was altered or its"
        " disk is failing; restore the file, or begin another run with run=..."
    )


def _ordered(table: Table) -> Table:
    return {
        shard: {group: list(table[shard][group]) for group in sorted(table[shard], key=int)}
        for shard in sorted(table)
    }


def _parsed(values: Mapping[str, Any]) -> Table:
    parsed: Table = {}
    try:
        for shard, groups in values.items():
            parsed[shard] = {str(int(group)): _hashes(found) for group, found in groups.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise StorageError(
            f"expected hashes of what was read by shard and row group, found {error};"
            " the file with them was altered: restore it, or remove what it belongs to"
        ) from error
    return parsed


def _hashes(found: Any) -> list[str]:
    if not isinstance(found, list) or not all(
        isinstance(item, str) and len(item) == 2 * _SIZE for item in found
    ):
        raise ValueError("something that is no list of hashes")
    return list(found)
