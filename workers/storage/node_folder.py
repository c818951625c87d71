"""Folders on a machine that processes of one user share, and locks in them."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.errors import StorageError


def shared_folder(folder: str | None, name: str, *, holds: str, advice: str) -> Path:
    """Return a folder that no other user can put anything into, made if need be.

    Args:
        folder: where; None: `name` and the user's number, under the system's folder for
            temporary files.
        name: of it there.
        holds: the words for what it is for, in an error.
        advice: the words for what to do then.

    Raises:
        StorageError: it cannot be made, or belongs to another user.
    """
    found = Path(tempfile.gettempdir(), f"{name}-{os.getuid()}")
    if folder:
        found = Path(folder).expanduser().absolute()
    try:
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = found.lstat()
    except OSError as error:
        raise StorageError(
            f"{found}: expected a folder for {holds}, found: {error}; {advice}"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise StorageError(
            f"{found}: expected a folder of this user for {holds}, found another's; {advice}"
        )
    return found


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock of a file, made if need be; `BlockingIOError` where that would wait."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)
