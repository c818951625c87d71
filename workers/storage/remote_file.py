"""A file of an object store to read anywhere in, as Parquet needs it."""

from __future__ import annotations

import io
import os
from typing import Any

import pyarrow.fs

from workers.storage.retrying import Retries
from workers.storage.wording import explained


class RemoteFile(io.RawIOBase):
    """Reads a file by ranges; every request is tried again.

    Args:
        filesystem: that has the file, and tries a request once.
        path: of the file there.
        retries: how requests are tried again.

    The methods raise `FileNotFoundError` if there is no such file, or no longer the one that
    was opened, and `StorageUnreachable` if the server does not answer in spite of the retries.
    """

    def __init__(self, filesystem: Any, path: str, retries: Retries) -> None:
        self._filesystem = filesystem
        self._path = path
        self._retries = retries
        self._file: Any = None
        self._offset = 0
        self._size: int | None = None
        self._size = self._tried(lambda: self._opened().size())

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that reads may begin anywhere."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Choose where the next read begins; return that."""
        assert self._size is not None
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size}[whence]
        self._offset = start + offset
        return self._offset

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes (below 0: all), fewer only at the end of the file."""
        assert self._size is not None
        left = max(0, self._size - self._offset)
        wanted = left if size < 0 else min(size, left)
        data: bytes = self._tried(lambda: self._read(wanted)) if wanted else b""
        self._offset += len(data)
        return data

    def _read(self, size: int) -> bytes:
        # A connection that failed is not used again.
        file, self._file = self._opened(), None
        data: bytes = file.read_at(size, self._offset)
        if len(data) < size:
            raise ConnectionError(f"{size} bytes were asked for, and {len(data)} came")
        self._file = file
        return data

    def _opened(self) -> Any:
        if self._file is None:
            file = self._filesystem.open_input_file(self._path)
            if self._size not in (None, file.size()):
                raise FileNotFoundError("another file took its place while it was read")
            self._file = file
        return self._file

    def _tried(self, operation: Any) -> Any:
        try:
            return self._retries.run(operation)
        except FileNotFoundError:
            raise
        except OSError as error:
            if self._is_gone():
                # A server that is asked for a range words it in another way.
                raise FileNotFoundError("it is there no more") from error
            with explained(self._path):
                raise

    def _is_gone(self) -> bool:
        try:
            info = self._filesystem.get_file_info(self._path)
        except OSError:
            return False
        return bool(info.type == pyarrow.fs.FileType.NotFound)
