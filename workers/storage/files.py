"""Files in a folder on a local disk or in an object store: put, then commit."""

from __future__ import annotations

import atexit
import functools
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workers.errors import SchemaError, StorageError, StorageUnreachable
from workers.storage.filesystems import open_place
from workers.storage.formats import (
    COMMIT,
    COMMIT_SCHEMA,
    LARGEST_JSON,
    FileEntry,
    Manifest,
    check_name,
    from_json,
    measure,
    read_entries,
    to_json,
)
from workers.storage.info import FileInfo
from workers.storage.local import LocalFiles, is_unseen
from workers.storage.remote import RemoteFiles
from workers.storage.retrying import Retries
from workers.storage.wording import altered, explained

_NUMBERED = re.compile(r"(\d{4,})\.\w+")

_Names = list[str]
_Infos = list[FileInfo | None]
Source = bytes | Callable[[Path], None]
"""What a file is made of: its bytes, or a function that writes it at a local path."""


class Storage:
    """A folder on a local disk or in an object store; all paths are relative to it.

    Args:
        uri: a folder, absolute or relative to the working directory, or the URI of a
            pyarrow filesystem (file://, s3://, gs://). Need not exist yet.
        retries: how operations on a server are tried again; None: for up to two minutes.

    Every method raises `StorageUnreachable` if the storage cannot be reached in spite of the
    retries, `StorageError` if a path would leave the folder, `StorageFull` if a disk has no room.
    """

    def __init__(self, uri: str, *, retries: Retries | None = None) -> None:
        retries = retries or Retries()
        self.uri, self._root, remote = open_place(uri, retries)
        self._files = RemoteFiles(remote, retries) if remote else LocalFiles()
        self.is_local = self._files.is_local
        self._downloads: dict[tuple[str, int, int], Path] = {}

    def where(self, path: str) -> str:
        """Return the full path or URI of `path`."""
        base, mark, query = self.uri.partition("?")
        return f"{base}/{path}{mark}{query}" if path else self.uri

    def exists(self, path: str) -> bool:
        """Return whether there is a file or folder."""
        return self._info(path) is not None

    def list(self, path: str = "") -> _Names:
        """Return the sorted names in a folder; none if there is no such folder."""
        with self._explained(path):
            return sorted(self._files.names(self._full(path)))

    def read_bytes(self, path: str, *, at_most: int | None = None) -> bytes:
        """Return a file's bytes; `StorageError` if there is none, or there are too many."""
        read = bytearray()
        for chunk in self._chunks(path):
            read += chunk
            if at_most is not None and len(read) > at_most:
                raise altered(self.where(path), f"at most {at_most:,} bytes", "more")
        return bytes(read)

    def write_bytes(self, path: str, data: bytes) -> FileEntry:
        """Write a file, in the place of an older one if there is one."""
        with self._explained(path):
            self._files.write(self._full(path), data)
        return measure([data])

    def read_json(self, path: str, *, schema: int = 1) -> dict[str, Any]:
        """Return what `write_json` wrote; `StorageError` and `SchemaError` as `from_json`."""
        data = self.read_bytes(path, at_most=LARGEST_JSON)
        return from_json(data, self.where(path), schema=schema)

    def write_json(self, path: str, values: Mapping[str, Any], *, schema: int = 1) -> None:
        """Write plain values with their schema number."""
        self.write_bytes(path, to_json(values, schema=schema))

    def append(self, folder: str, data: bytes, suffix: str) -> str:
        """Write the next numbered file (0001, 0002, …) of a folder; return its path."""
        newest = self.numbered(folder)[-1:]
        number = int(newest[0].split(".")[0]) + 1 if newest else 1
        path = f"{folder}/{number:04d}{suffix}"
        self.write_bytes(path, data)
        return path

    def numbered(self, folder: str) -> _Names:
        """Return the names that `append` made in a folder, the newest last."""
        names = [name for name in self.list(folder) if _NUMBERED.fullmatch(name)]
        return sorted(names, key=lambda name: int(name.split(".")[0]))

    def sizes(self) -> dict[str, int]:
        """Return every file of the storage with its bytes, half-written ones too."""
        with self._explained(""):
            return self._files.sizes(self._root)

    @staticmethod
    def is_half_written(path: str) -> bool:
        """Return whether a file is one that its writer has not finished, on a local disk."""
        return any(is_unseen(part) for part in path.split("/"))

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with its `COMMIT` first; nothing if there is none."""
        with self._explained(path):
            self._files.delete(self._full(path))

    def write_file(
        self, path: str, source: Source, beat: Callable[[], None] = lambda: None
    ) -> FileEntry:
        """Write a file from bytes or by a function that gets a local path to write at.

        `beat` is called for each piece of what the function wrote, as it is read and sent.
        """
        if isinstance(source, bytes):
            return self.write_bytes(path, source)
        with self._explained(path):
            return self._files.write_by(self._full(path), source, beat)

    def copy_from(
        self, other: Storage, source: str, target: str, beat: Callable[[], None] = lambda: None
    ) -> FileEntry:
        """Copy one file of another storage here, in pieces; return what was copied.

        `beat` is called for each piece.
        """

        def chunks() -> Iterator[bytes]:
            for chunk in other._chunks(source):
                beat()
                yield chunk

        with self._explained(target):
            return self._files.write_chunks(self._full(target), chunks)

    def commit(self, folder: str, files: Mapping[str, Source]) -> Manifest:
        """Write the files of a folder, then its `COMMIT`: all of them count, or none."""
        self.delete(f"{folder}/{COMMIT}")
        return self.seal(
            folder,
            {name: self.write_file(f"{folder}/{name}", source) for name, source in files.items()},
        )

    def seal(self, folder: str, entries: Mapping[str, FileEntry]) -> Manifest:
        """Write the `COMMIT` of a folder whose files were written before."""
        for name in entries:
            check_name(name, self.where(folder))
        listed = {name: asdict(entry) for name, entry in entries.items()}
        self.write_json(f"{folder}/{COMMIT}", {"files": listed}, schema=COMMIT_SCHEMA)
        return Manifest(dict(entries))

    def manifest(self, folder: str) -> Manifest:
        """Return what a folder's `COMMIT` says, its files' sizes checked.

        Raises:
            StorageError: there is none, it is altered, or a file is missing or cut short.
            SchemaError: another version wrote it.
        """
        path = f"{folder}/{COMMIT}"
        values = self.read_json(path, schema=COMMIT_SCHEMA)
        manifest = Manifest(read_entries(values, self.where(path)))
        infos = self._infos([f"{folder}/{name}" for name in manifest.files])
        for (name, entry), info in zip(manifest.files.items(), infos, strict=True):
            if info is None or info.size != entry.size:
                found = "no file" if info is None else f"{info.size} bytes"
                raise altered(self.where(f"{folder}/{name}"), f"{entry.size} bytes", found)
        return manifest

    def committed(self, folder: str) -> Manifest | None:
        """Return `manifest(folder)`, or None where that finds nothing whole.

        Raises:
            SchemaError: another version wrote the `COMMIT`.
            StorageUnreachable: nothing is known, so that None would be a lie.
        """
        if not self.exists(f"{folder}/{COMMIT}"):
            return None
        try:
            return self.manifest(folder)
        except (SchemaError, StorageUnreachable):
            raise
        except StorageError:
            return None

    def read_committed(
        self,
        folder: str,
        name: str,
        manifest: Manifest | None = None,
        *,
        at_most: int | None = None,
    ) -> bytes:
        """Return a committed file's bytes, checked against their sha256.

        Args:
            folder: the committed folder.
            name: of a file that its `COMMIT` lists.
            manifest: what `manifest(folder)` returned; None: read it.
            at_most: how many bytes it may have; None: any number.
        """
        entry = self._listed(folder, name, manifest or self.manifest(folder))
        data = self.read_bytes(f"{folder}/{name}", at_most=at_most)
        self._check(f"{folder}/{name}", entry, measure([data]))
        return data

    def verify(self, folder: str, names: Iterable[str] | None = None) -> Manifest:
        """Read committed files to the end and check each sha256.

        Args:
            folder: the committed folder.
            names: the files to check; None: all.

        Raises:
            StorageError: names the file that is not what was committed.
        """
        manifest = self.manifest(folder)
        for name in manifest.files if names is None else names:
            path = f"{folder}/{name}"
            self._check(path, self._listed(folder, name, manifest), measure(self._chunks(path)))
        return manifest

    def local(self, path: str) -> Path:
        """Return a path to open by memory map: the file itself, or a copy for this process."""
        info = self._info(path)
        if info is None or not info.is_file:
            raise altered(self.where(path), "a file", "none")
        if self.is_local:
            return Path(self._full(path))
        key = path, info.size, info.modified
        if key not in self._downloads:
            copy = _process_folder() / f"{secrets.token_hex(8)}-{path.rpartition('/')[2]}"
            Storage(str(copy.parent)).copy_from(self, path, copy.name)
            self._downloads[key] = copy
        return self._downloads[key]

    def _info(self, path: str) -> FileInfo | None:
        return self._infos([path])[0]

    def _infos(self, paths: _Names) -> _Infos:
        with self._explained(paths[0] if paths else ""):
            return self._files.infos([self._full(path) for path in paths])

    def _chunks(self, path: str) -> Iterator[bytes]:
        with self._explained(path):
            yield from self._files.chunks(self._full(path))

    def _full(self, path: str) -> str:
        if path:
            check_name(path, self.uri)
        return f"{self._root}/{path}" if path else self._root

    def _explained(self, path: str) -> AbstractContextManager[None]:
        return explained(self.where(path))

    def _listed(self, folder: str, name: str, manifest: Manifest) -> FileEntry:
        if name not in manifest.files:
            listed = ", ".join(manifest.files) or "nothing"
            raise altered(self.where(f"{folder}/{COMMIT}"), f"'{name}' in it", listed)
        return manifest.files[name]

    def _check(self, path: str, wanted: FileEntry, found: FileEntry) -> None:
        if wanted != found:
            raise altered(
                self.where(path),
                f"{wanted.size} bytes with sha256 {wanted.sha256[:16]}…",
                f"{found.size} bytes with {found.sha256[:16]}…",
            )


@functools.cache
def _process_folder() -> Path:
    """Return a folder for downloads that goes when this process does."""
    folder = tempfile.mkdtemp(prefix="manyworlds-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
