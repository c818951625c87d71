"""What was measured of hashing inside a world."""

from __future__ import annotations

from benchmarks import kept
from benchmarks.kept import Found

__all__ = ["Found", "Kept"]


class Kept(kept.Kept):
    """What was measured of one thing, in a file.

    Args:
        name: of the file.
    """

    def __init__(self, name: str) -> None:
        super().__init__("lsh", name)
