"""What users read when storage fails: where, what was found, what to do, and no credentials."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from workers.errors import StorageError, StorageFull, StorageUnreachable

_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Characters; shorter values would blot out ordinary words."""
_FULL = re.compile(r"no space left|disk quota exceeded|\(os error (28|122)\)", re.IGNORECASE)


def altered(where: str, expected: str, found: str) -> StorageError:
    """Return the error for a file that is not what it should be."""
    return StorageError(
        f"{where}: expected {expected}, found {found}; restore it, or remove what it belongs to"
    )


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn errors of disks and servers into `StorageError` and `StorageFull` about `where`."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise altered(where, "a file", "none") from error
    except Exception as error:
        if not is_full(error) and not isinstance(error, OSError | pa.ArrowException):
            raise
        if (found := without_secrets(str(error))) != str(error):
            # A traceback would show the server's own words.
            raise _explanation(where, error, found) from None
        raise _explanation(where, error, found) from error


def is_full(error: BaseException) -> bool:
    """Return whether a disk had no room left, in whatever class a library says so."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return _FULL.search(str(error)) is not None


def without_secrets(text: str) -> str:
    """Return `text` without the values of environment variables that sound like credentials."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET.search(name):
            text = text.replace(value, f"<{name}>")
    return text


def _explanation(where: str, error: Exception, found: str) -> StorageError:
    if is_full(error):
        return StorageFull(
            f"{where}: expected room on the disk for this file, found none ({found}); make room,"
            " nothing was left of it and older files are untouched"
        )
    return StorageUnreachable(
        f"{where}: expected storage that can be read and written, found: {found};"
        " check permissions, credentials and network"
    )
