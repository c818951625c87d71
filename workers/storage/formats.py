"""How a run's small files look: JSON with a schema number, and the `COMMIT` of a folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workers.errors import SchemaError, StorageError

COMMIT = "COMMIT"
"""The file that makes a folder count; written last."""
COMMIT_SCHEMA = 1
LARGEST_JSON = 64 << 20
"""Bytes of the largest JSON file that is read: parsed, it takes many times as much memory."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_NUMBER = 1e300


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file as a `COMMIT` lists it."""

    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a `COMMIT` says: the files of its folder by name."""

    files: Mapping[str, FileEntry]


def to_json(values: Mapping[str, Any], *, schema: int = 1) -> bytes:
    """Return `values` as JSON with their schema number and `content_sha256`.

    The keys "schema" and "sha256" are taken by these.
    """
    assert not {"schema", "sha256"} & values.keys(), "these keys are taken"
    whole = {"schema": schema, "sha256": content_sha256(values), **values}
    return json.dumps(whole, indent=1, allow_nan=False).encode() + b"\n"


def is_number(value: Any) -> bool:
    """Return whether a value of a file is a number that can be reckoned with."""
    return type(value) in (int, float) and abs(value) <= _LARGEST_NUMBER


def content_sha256(values: Mapping[str, Any]) -> str:
    """Return the sha256 of plain values, written as compact JSON in the order of their keys.

    It tells a file that nothing else vouches for from one in which a bit was flipped.

    Raises:
        TypeError, ValueError, RecursionError: they are no plain, finite values.
    """
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def from_json(data: bytes, where: str, *, schema: int = 1) -> dict[str, Any]:
    """Return the values of a file that `to_json` made, without the schema number.

    Args:
        data: the file's bytes.
        where: the words that name it in an error.
        schema: the number that the caller understands.

    Raises:
        StorageError: it is no JSON object, or not the one whose `content_sha256` it holds.
        SchemaError: its schema number is another.
    """
    try:
        values = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"{where}: expected JSON, found a file that is cut short or altered ({error});"
            " restore it, or remove what it belongs to"
        ) from error
    if not isinstance(values, dict):
        raise StorageError(
            f"{where}: expected a JSON object, found {type(values).__name__};"
            " restore it, or remove what it belongs to"
        )
    found = values.pop("schema", None)
    if found != schema or isinstance(found, bool):
        raise SchemaError(
            f"{where}: expected schema {schema}, found {found}; another version of manyworlds"
            " wrote it: use that version, or start anew in another folder"
        )
    check_content(values, where)
    return values


def check_content(values: dict[str, Any], where: str) -> None:
    """Take the `content_sha256` out of the values of a file, if it holds one, and check it.

    Raises:
        StorageError: the values are others.
    """
    wanted = values.pop("sha256", None)
    try:
        found = content_sha256(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise _altered(where, "plain, finite values", str(error)) from error
    if wanted is not None and wanted != found:
        raise _altered(where, f"content with sha256 {wanted!r:.18}…", f"{found[:16]}…")


def check_name(path: str, where: str) -> None:
    """Check that a relative path with forward slashes stays in its folder.

    Raises:
        StorageError: it is absolute, has empty or dotted parts, a backslash, or control characters.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable():
        raise StorageError(
            f"{where}: expected the name of a file inside the folder, found {path!r};"
            " this file was altered, or was not made by manyworlds"
        )


def read_entries(values: Mapping[str, Any], where: str) -> dict[str, FileEntry]:
    """Return the files that a `COMMIT` lists.

    Raises:
        StorageError: it lists no files, or something that is no name, size and sha256.
    """
    listed = values.get("files")
    if not isinstance(listed, dict):
        raise _not_a_commit(where, f"files = {listed!r}")
    for name in listed:
        check_name(name, where)
    return {name: _read_entry(item, f"{where}, {name}") for name, item in listed.items()}


def measure(chunks: Iterable[bytes], write: Callable[[bytes], Any] | None = None) -> FileEntry:
    """Return size and sha256 of a file that comes in pieces, and hand each piece to `write`."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if write:
            write(chunk)
    return FileEntry(size, digest.hexdigest())


def _read_entry(item: Any, where: str) -> FileEntry:
    if not isinstance(item, dict) or set(item) != {"size", "sha256"}:
        raise _not_a_commit(where, repr(item))
    size, sha256 = item["size"], item["sha256"]
    if type(size) is not int or size < 0:
        raise _not_a_commit(where, f"size = {size!r}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise _not_a_commit(where, f"sha256 = {sha256!r}")
    return FileEntry(size, sha256)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _altered(where: str, expected: str, found: str) -> StorageError:
    return StorageError(
        f"{where}: expected {expected}, found {found}; the file was altered:"
        " restore it, or remove what it belongs to"
    )


def _not_a_commit(where: str, found: str) -> StorageError:
    return StorageError(
        f"{where}: expected files with size and sha256, found {found};"
        " restore it, or remove what it belongs to"
    )
