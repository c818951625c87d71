"""What is remembered of each shard from the beginning of a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from workers.errors import StorageError


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One Parquet file as its footer describes it; no footer where it could not be read."""

    name: str
    """Path relative to the data set's folder."""
    bytes: int
    row_groups: tuple[int, ...] = ()
    """Rows of each row group."""
    schema: tuple[str, ...] = ()
    footer: str | None = None
    """Hash of the footer, which says where each column chunk lies and how large it is."""


def record_of(name: str, size: int, footer: bytes, file: pq.ParquetFile) -> ShardRecord:
    """Return what a file is like whose last bytes are `footer`, opened as `file`."""
    groups = range(file.metadata.num_row_groups)
    return ShardRecord(
        name,
        size,
        tuple(file.metadata.row_group(group).num_rows for group in groups),
        tuple(f"{field.name}: {field.type}" for field in file.schema_arrow),
        hashlib.sha256(footer).hexdigest()[:32],
    )


def changed(path: str, known: ShardRecord, found: ShardRecord) -> str:
    """Return the sentence for a shard that is another than when the run began."""
    return (
        f"{path}: expected the shard that the run began with, {_shape(known)},"
        f" found {_shape(found)}; restore it, or begin another run with run=..."
    )


def dense_width(fingerprint: Mapping[str, Any], column: str, where: str) -> int | None:
    """Return how many numbers the vectors of a column hold; None: no shard tells.

    Args:
        fingerprint: what `ShardSet.fingerprint` returned.
        column: of fixed-size lists.
        where: the words that name the fingerprint in an error.

    Raises:
        StorageError: if it is something else.
    """
    wanted = re.compile(rf"{re.escape(column)}: fixed_size_list<.*>\[(\d+)\]", re.DOTALL)
    fields = (field for shard in read_records(fingerprint, where) for field in shard.schema)
    found = next((match for field in fields if (match := wanted.fullmatch(field))), None)
    return int(found[1]) if found else None


def plain(shard: ShardRecord) -> dict[str, Any]:
    """Return a record as plain values, ready for JSON, with the number of its rows."""
    return {
        "name": shard.name,
        "bytes": shard.bytes,
        "rows": sum(shard.row_groups),
        "row_groups": list(shard.row_groups),
        "schema": list(shard.schema),
        "footer": shard.footer,
    }


def read_records(fingerprint: Mapping[str, Any], where: str) -> list[ShardRecord]:
    """Return the shards of what `ShardSet.fingerprint` returned.

    Raises:
        StorageError: if it is something else.
    """
    try:
        return [_record(shard) for shard in fingerprint["shards"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{where}: expected a fingerprint of shards, found {type(error).__name__}: {error};"
            " the run's dataset.json was altered: restore it"
        ) from error


def _record(shard: Mapping[str, Any]) -> ShardRecord:
    groups, footer = tuple(shard["row_groups"]), shard["footer"]
    numbers = [shard["bytes"], *groups]
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        raise ValueError("a size that is no whole number")
    words = [shard["name"], *shard["schema"], "" if footer is None else footer]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("a name that is no text")
    return ShardRecord(shard["name"], shard["bytes"], groups, tuple(shard["schema"]), footer)


def _shape(shard: ShardRecord) -> str:
    if shard.footer is None:
        return "which could not be read then"
    rows = sum(shard.row_groups)
    return f"{shard.bytes:,} bytes with {rows:,} rows and footer {shard.footer[:8]}…"
