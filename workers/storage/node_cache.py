"""Copies of remote files on this machine, shared by all processes that read them.

The copies lie in one folder, each under a key that names its content's version.
A copy counts once it is whole: `Storage` writes it under another name, and
renames it after its size was checked. Two kinds of lock (flock) keep processes
apart: one a key, held while it is fetched, and one for the folder, held while
room is made. The lock file of a key is as large as the file that is being
fetched, without taking room on the disk, so that downloads under way count.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from workers.errors import StorageError
from workers.storage import Storage
from workers.storage.node_folder import locked, shared_folder

_LOCK = ".lock"
_FOLDER = "folder" + _LOCK


class NodeCache:
    """A folder of copies of at most `limit` bytes; the least recently used go first.

    Args:
        limit: bytes of all copies together; half of what is free on the disk, if that is less.
        folder: where they lie; None: a folder of this user under the system's folder for
            temporary files.

    Raises:
        StorageError: if the folder cannot be made, or belongs to another user.
    """

    def __init__(self, limit: int, folder: str | None = None) -> None:
        self._folder = shared_folder(
            folder,
            "manyworlds-cache",
            holds="copies of remote shards",
            advice="set runtime.cache_folder to another, or runtime.cache_bytes=0",
        )
        self._files = Storage(str(self._folder))
        free = shutil.disk_usage(self._folder).free
        self.limit = min(limit, sum(copy.st_size for _, copy in self._copies()) + free // 2)

    def open(self, source: Storage, path: str, key: str, size: int) -> pa.NativeFile | None:
        """Return the copy of a file, open to be read, fetched first where there is none.

        A copy that is open stays readable even when it is removed to make room.

        Args:
            source: the storage that has the file.
            path: of the file there.
            key: letters and digits that stand for this version of this file alone.
            size: of the file in bytes.

        Returns:
            None where there can be no copy: it is too large, the disk is full, or the file
            could not be fetched whole. The caller then reads the file where it is.
        """
        if size > self.limit:
            return None
        try:
            with locked(self._folder / (key + _LOCK)) as lock:
                return self._opened(key, size) or self._fetched(source, path, key, size, lock)
        except (OSError, StorageError):
            return None

    def drop(self, key: str) -> None:
        """Remove a copy that turned out to be unreadable; nothing if there is none."""
        self._files.delete(key)

    def _fetched(
        self, source: Storage, path: str, key: str, size: int, lock: int
    ) -> pa.NativeFile | None:
        os.ftruncate(lock, size)
        try:
            with locked(self._folder / _FOLDER):
                if not self._make_room():
                    return None
            if self._files.copy_from(source, path, key).size != size:
                self._files.delete(key)
            return self._opened(key, size)
        finally:
            os.ftruncate(lock, 0)

    def _opened(self, key: str, size: int) -> pa.NativeFile | None:
        path = self._folder / key
        try:
            file = pa.OSFile(str(path), "r")
        except FileNotFoundError:
            return None
        if file.size() != size:
            self._files.delete(key)
            return None
        # What was used last is told by the time of access, which `noatime` does not set.
        os.utime(path)
        return file

    def _make_room(self) -> bool:
        copies = sorted(self._copies(), key=lambda copy: copy[1].st_mtime_ns)
        used = sum(copy.st_size for _, copy in copies) + sum(self._under_way())
        while copies and used > self.limit:
            path, copy = copies.pop(0)
            self._files.delete(path.name)
            used -= copy.st_size
        return used <= self.limit

    def _copies(self) -> list[tuple[Path, os.stat_result]]:
        return [
            (path, status)
            for path, status in self._entries()
            if not path.name.startswith(".") and not path.name.endswith(_LOCK)
        ]

    def _under_way(self) -> Iterator[int]:
        """Yield the sizes of downloads; remove what is left of those whose process died."""
        for path, status in self._entries():
            if not path.name.endswith(_LOCK) or not status.st_size:
                continue
            try:
                with locked(path, wait=False) as lock:
                    self._forget(path.name.removesuffix(_LOCK))
                    os.ftruncate(lock, 0)
            except BlockingIOError:
                yield status.st_size

    def _forget(self, key: str) -> None:
        for path, _ in self._entries():
            if path.name.startswith(f".{key}."):
                self._files.delete(path.name)

    def _entries(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
        return found
