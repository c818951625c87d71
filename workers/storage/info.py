"""What is known of a file without reading it."""

from __future__ import annotations

from typing import NamedTuple


class FileInfo(NamedTuple):
    """A file or folder."""

    is_file: bool
    size: int
    """Bytes; 0 for a folder."""
    modified: int
    """Nanoseconds since 1970 on the storage's own clock; 0 if it does not say."""
