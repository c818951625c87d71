"""Files in a folder on a local disk or in an object store: put, then commit."""

from __future__ import annotations

import atexit
import functools
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from workers.errors import SchemaError, StorageError
from workers.storage.formats import (
    COMMIT,
    COMMIT_SCHEMA,
    FileEntry,
    Manifest,
    check_name,
    from_json,
    measure,
    read_entries,
    to_json,
)

_CHUNK = 1 << 20
_OBJECT_STORES = ("s3", "gcs", "abfs")
_NUMBERED = re.compile(r"(\d{4,})\.\w+")

_Names = list[str]
Source = bytes | Callable[[Path], None]
"""What a file is made of: its bytes, or a function that writes it at a local path."""


class Storage:
    """A folder on a local disk or in an object store; all paths are relative to it.

    Args:
        uri: a folder, absolute or relative to the working directory, or the URI of a
            pyarrow filesystem (file://, s3://, gs://). Need not exist yet.

    Every method raises `StorageError` if the storage cannot be reached, or if a path
    would leave the folder.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self._filesystem, self._root = _open(uri)
        self.is_local = self._filesystem.type_name == "local"
        self._downloads: dict[tuple[str, int, int], Path] = {}

    def where(self, path: str) -> str:
        """Return the full path or URI of `path`."""
        base, mark, query = self.uri.partition("?")
        return f"{base}/{path}{mark}{query}" if path else self.uri

    def exists(self, path: str) -> bool:
        """Return whether there is a file or folder."""
        with self._explained(path):
            found = self._filesystem.get_file_info(self._full(path))
        return bool(found.type != pyarrow.fs.FileType.NotFound)

    def list(self, path: str = "") -> _Names:
        """Return the sorted names in a folder; none if there is no such folder."""
        selector = pyarrow.fs.FileSelector(self._full(path), allow_not_found=True)
        with self._explained(path):
            found = self._filesystem.get_file_info(selector)
        return sorted(info.base_name for info in found if not _is_unseen(info.base_name))

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes; `StorageError` if there is none."""
        return b"".join(self._chunks(path))

    def write_bytes(self, path: str, data: bytes) -> FileEntry:
        """Write a file, in the place of an older one if there is one."""
        return self._write(path, [data])

    def read_json(self, path: str, *, schema: int = 1) -> dict[str, Any]:
        """Return what `write_json` wrote; `StorageError` and `SchemaError` as `from_json`."""
        return from_json(self.read_bytes(path), self.where(path), schema=schema)

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

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with its `COMMIT` first; nothing if there is none."""
        full = self._full(path)
        with self._explained(path):
            info = self._filesystem.get_file_info(full)
            if info.type == pyarrow.fs.FileType.Directory:
                self._remove(f"{full}/{COMMIT}", self._filesystem.delete_file)
                self._remove(full, self._filesystem.delete_dir)
            elif info.type != pyarrow.fs.FileType.NotFound:
                self._remove(full, self._filesystem.delete_file)

    def write_file(self, path: str, source: Source) -> FileEntry:
        """Write a file from bytes or by a function that gets a local path to write at."""
        if isinstance(source, bytes):
            return self._write(path, [source])
        if self.is_local:
            with self._explained(path), _unseen(Path(self._full(path))) as temporary:
                source(temporary)
                return measure(_file_chunks(temporary))
        with tempfile.TemporaryDirectory() as folder:
            source(Path(folder, "file"))
            return self._write(path, _file_chunks(Path(folder, "file")))

    def copy_from(self, other: Storage, source: str, target: str) -> FileEntry:
        """Copy one file of another storage here, in pieces; return what was copied."""
        return self._write(target, other._chunks(source))

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
        paths = [self._full(f"{folder}/{name}") for name in manifest.files]
        with self._explained(folder):
            infos = self._filesystem.get_file_info(paths)
        for (name, entry), info in zip(manifest.files.items(), infos, strict=True):
            if info.size != entry.size:
                found = "no file" if info.size is None else f"{info.size} bytes"
                raise self._altered(f"{folder}/{name}", f"{entry.size} bytes", found)
        return manifest

    def committed(self, folder: str) -> Manifest | None:
        """Return `manifest(folder)`, or None where that finds nothing whole.

        Raises:
            SchemaError: another version wrote the `COMMIT`.
        """
        if not self.exists(f"{folder}/{COMMIT}"):
            return None
        try:
            return self.manifest(folder)
        except SchemaError:
            raise
        except StorageError:
            return None

    def read_committed(self, folder: str, name: str, manifest: Manifest | None = None) -> bytes:
        """Return a committed file's bytes, checked against their sha256.

        Args:
            folder: the committed folder.
            name: of a file that its `COMMIT` lists.
            manifest: what `manifest(folder)` returned; None: read it.
        """
        entry = self._listed(folder, name, manifest or self.manifest(folder))
        data = self.read_bytes(f"{folder}/{name}")
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
        full = self._full(path)
        with self._explained(path):
            info = self._filesystem.get_file_info(full)
        if info.type != pyarrow.fs.FileType.File:
            raise self._altered(path, "a file", "none")
        if self.is_local:
            return Path(full)
        key = full, info.size, info.mtime_ns
        if key not in self._downloads:
            copy = _process_folder() / f"{secrets.token_hex(8)}-{info.base_name}"
            Storage(str(copy.parent)).copy_from(self, path, copy.name)
            self._downloads[key] = copy
        return self._downloads[key]

    def _write(self, path: str, chunks: Iterable[bytes]) -> FileEntry:
        with self._explained(path), self._sink(path) as write:
            return measure(chunks, write)

    @contextmanager
    def _sink(self, path: str) -> Iterator[Callable[[bytes], Any]]:
        full = self._full(path)
        if self.is_local:
            with _unseen(Path(full)) as temporary, temporary.open("xb") as file:
                yield file.write
            return
        if self._filesystem.type_name not in _OBJECT_STORES:
            self._filesystem.create_dir(full.rpartition("/")[0], recursive=True)
        with self._filesystem.open_output_stream(full, compression=None) as stream:
            yield stream.write

    def _chunks(self, path: str) -> Iterator[bytes]:
        full = self._full(path)
        with (
            self._explained(path),
            self._filesystem.open_input_stream(full, compression=None) as stream,
        ):
            while chunk := stream.read(_CHUNK):
                yield chunk

    def _remove(self, full: str, remove: Callable[[str], None]) -> None:
        try:
            remove(full)
        except FileNotFoundError:
            return
        except OSError:
            # Arrow puts an empty object for the parent folder afterwards, which a server may
            # refuse. What counts is whether the files are gone.
            inside = pyarrow.fs.FileSelector(full, allow_not_found=True, recursive=True)
            left = [self._filesystem.get_file_info(full), *self._filesystem.get_file_info(inside)]
            if any(info.type == pyarrow.fs.FileType.File for info in left):
                raise

    def _full(self, path: str) -> str:
        if path:
            check_name(path, self.uri)
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise self._altered(path, "a file", "none") from error
        except (OSError, pa.ArrowException) as error:
            raise StorageError(
                f"{self.where(path)}: expected storage that can be read and written, found:"
                f" {error}; check space, permissions, credentials and network"
            ) from error

    def _listed(self, folder: str, name: str, manifest: Manifest) -> FileEntry:
        if name not in manifest.files:
            listed = ", ".join(manifest.files) or "nothing"
            raise self._altered(f"{folder}/{COMMIT}", f"'{name}' in it", listed)
        return manifest.files[name]

    def _check(self, path: str, wanted: FileEntry, found: FileEntry) -> None:
        if wanted != found:
            raise self._altered(
                path,
                f"{wanted.size} bytes with sha256 {wanted.sha256[:16]}…",
                f"{found.size} bytes with {found.sha256[:16]}…",
            )

    def _altered(self, path: str, expected: str, found: str) -> StorageError:
        return StorageError(
            f"{self.where(path)}: expected {expected}, found {found};"
            " restore it, or remove what it belongs to"
        )


def _open(uri: str) -> tuple[str, Any, str]:
    if not uri:
        raise StorageError("expected a folder or URI, found nothing; for example runs/first")
    if "://" not in uri:
        path = os.path.abspath(os.path.expanduser(uri))
        return path, pyarrow.fs.LocalFileSystem(), path
    if "@" in uri.split("://")[1].split("/")[0]:
        # The URI ends up in states, logs and on screens.
        raise StorageError(
            "expected a URI without credentials, found some before an '@'; give them by the"
            " environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StorageError(
            f"{uri}: expected a folder, or a URI of file://, s3:// or gs://, found: {error}"
        ) from error
    path = path.rstrip("/")
    if not path:
        raise StorageError(f"{uri}: expected a bucket and a folder in it, found neither")
    return path if filesystem.type_name == "local" else uri.rstrip("/"), filesystem, path


@contextmanager
def _unseen(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write at, which takes its place once it is on disk."""
    _make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _is_unseen(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


@functools.cache
def _process_folder() -> Path:
    """Return a folder for downloads that goes when this process does."""
    folder = tempfile.mkdtemp(prefix="manyworlds-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
