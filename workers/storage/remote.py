"""Files in an object store: every request is tried again, and no half of a file is published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.fs

from workers.errors import StorageError
from workers.storage.filesystems import Remote
from workers.storage.formats import COMMIT, FileEntry, measure
from workers.storage.info import FileInfo
from workers.storage.local import file_chunks
from workers.storage.retrying import Retries, Torn
from workers.storage.wording import explained

_CHUNK = 4 << 20
"""Bytes that one request reads; a file up to this size is read and written by one."""


class RemoteFiles:
    """The files of an object store by their paths, bucket first; raises `OSError`."""

    is_local = False

    def __init__(self, remote: Remote, retries: Retries) -> None:
        self._filesystem = remote.filesystem
        self._uploads = remote.uploads
        self._needs_folders = remote.needs_folders
        self._retries = retries

    def infos(self, paths: list[str]) -> list[FileInfo | None]:
        """Return what is known of each file or folder, or None where there is none."""
        return self._retries.run(lambda: self._infos(paths))

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none if there is no such folder."""
        selector = pyarrow.fs.FileSelector(folder, allow_not_found=True)
        found = self._retries.run(lambda: self._filesystem.get_file_info(selector))
        return [info.base_name for info in found]

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file below a folder, by its path from there."""
        selector = pyarrow.fs.FileSelector(folder, allow_not_found=True, recursive=True)
        found = self._retries.run(lambda: self._filesystem.get_file_info(selector))
        files = [info for info in found if info.type == pyarrow.fs.FileType.File]
        return {info.path.removeprefix(f"{folder}/"): info.size for info in files}

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes in order, in pieces; after a failure it goes on where it was.

        Raises:
            StorageError: another file took its place after the first piece.
        """
        reader = _Reader(self._filesystem, path)
        while chunk := self._retries.run(reader.read):
            yield chunk

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole: by one request, if it is small."""
        if len(data) > _CHUNK:
            self.write_chunks(path, lambda: [data])
        else:
            self._retries.run(lambda: self._put(path, data))

    def write_chunks(self, path: str, chunks: Callable[[], Iterable[bytes]]) -> FileEntry:
        """Write a file from pieces, which are asked for anew at each try."""
        return self._retries.run(lambda: self._upload(path, chunks()))

    def write_by(
        self, path: str, write: Callable[[Path], None], beat: Callable[[], None]
    ) -> FileEntry:
        """Write a file by a function that gets a path to write at; return what was written."""
        with explained(tempfile.gettempdir()):
            folder = tempfile.TemporaryDirectory(prefix="manyworlds-")
        with folder as name:
            with explained(name):
                write(Path(name, "file"))
            return self.write_chunks(path, lambda: file_chunks(Path(name, "file"), beat))

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with its `COMMIT` first; nothing if there is none."""
        self._retries.run(lambda: self._delete(path))

    def _infos(self, paths: list[str]) -> list[FileInfo | None]:
        return [_info(found) for found in self._filesystem.get_file_info(paths)]

    def _put(self, path: str, data: bytes) -> None:
        self._make_folder(path)
        # No `with`: it would publish an empty file if the write raised.
        stream = self._filesystem.open_output_stream(path, compression=None)
        stream.write(data)
        stream.close()

    def _upload(self, path: str, chunks: Iterable[bytes]) -> FileEntry:
        self._make_folder(path)
        stream = self._uploads.open_output_stream(path, compression=None)
        try:
            entry = measure(chunks, stream.write)
        except BaseException:
            self._withdraw(stream, path)
            raise
        stream.close()
        (found,) = self._infos([path])
        if found is None or found.size != entry.size:
            raise Torn(f"{entry.size} bytes were written, and {found and found.size} are there")
        return entry

    def _withdraw(self, stream: Any, path: str) -> None:
        """Remove a file that broke off: Arrow cannot abort, it publishes what came so far."""
        with suppress(OSError):
            # Raises if an upload failed, and then nothing is published.
            stream.close()
            self._delete(path)

    def _make_folder(self, path: str) -> None:
        if self._needs_folders:
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)

    def _delete(self, path: str) -> None:
        (info,) = self._infos([path])
        if info is None:
            return
        if info.is_file:
            self._remove(path, self._filesystem.delete_file)
        else:
            self._remove(f"{path}/{COMMIT}", self._filesystem.delete_file)
            self._remove(path, self._filesystem.delete_dir)
        self._clear_marker(path.rpartition("/")[0])

    def _remove(self, path: str, remove: Callable[[str], None]) -> None:
        try:
            remove(path)
        except FileNotFoundError:
            return
        except OSError:
            # Arrow puts an empty object for the parent folder afterwards, which a server may
            # refuse. What counts is whether the files are gone.
            inside = pyarrow.fs.FileSelector(path, allow_not_found=True, recursive=True)
            left = [self._filesystem.get_file_info(path), *self._filesystem.get_file_info(inside)]
            if any(info.type == pyarrow.fs.FileType.File for info in left):
                raise

    def _clear_marker(self, folder: str) -> None:
        """Remove what Arrow put for an emptied folder where a server keeps that as a file.

        The empty object `folder/` tells S3 that there is a folder. A server that keeps files
        takes it for an empty file of the folder's name, under which nothing can be written.
        """
        while "/" in folder and self._is_marker_file(folder):
            self._remove(folder, self._filesystem.delete_file)
            folder = folder.rpartition("/")[0]

    def _is_marker_file(self, folder: str) -> bool:
        try:
            self._filesystem.get_file_info(pyarrow.fs.FileSelector(folder))
        except FileNotFoundError:
            (info,) = self._infos([folder])
            return info is not None and not info.size
        return False


def _info(found: Any) -> FileInfo | None:
    if found.type == pyarrow.fs.FileType.NotFound:
        return None
    is_file = found.type == pyarrow.fs.FileType.File
    return FileInfo(is_file, found.size or 0, found.mtime_ns or 0)


class _Reader:
    """Reads a file in order; a read that failed may be asked for again."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self._path = path
        self._file: Any = None
        self._version: object = None
        self._offset = 0

    def read(self) -> bytes:
        """Return the next bytes, none at the end."""
        file, self._file = self._file, None
        if file is None:
            file = self._open()
        data = bytes(file.read(_CHUNK))
        if not self._offset:
            self._check_length(len(data), file.size())
        self._file = file
        self._offset += len(data)
        return data

    def _open(self) -> Any:
        file = self._filesystem.open_input_file(self._path)
        version = file.size(), file.metadata()
        if self._offset and version != self._version:
            raise StorageError(
                f"{self._path}: expected a file that stays as it is while it is read, found"
                " another one in its place after a broken connection; read it again"
            )
        self._version = version
        file.seek(self._offset)
        return file

    def _check_length(self, read: int, size: int) -> None:
        """Check that no other file took the place between asking the size and reading."""
        whole = read == size
        if read < min(size, _CHUNK) or (
            whole and self._filesystem.get_file_info(self._path).size != size
        ):
            raise Torn(f"{read} bytes were read of a file that was replaced meanwhile")
