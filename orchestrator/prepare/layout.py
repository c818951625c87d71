"""How a job is divided: found once, and written down in its folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.inputs import open_names
from orchestrator.prepare.config import WORK, PrepareConfig
from orchestrator.prepare.cutting import Look, Piece
from orchestrator.prepare.sources import Source
from workers.storage import Storage

LAYOUT = f"{WORK}/layout.json"
_MOST_PARTS = 2048
"""More would make a job's files many and small."""


@dataclass(frozen=True)
class Layout:
    """How a job is divided."""

    pieces: list[Piece]
    parts: int
    """Of names, and of queries."""
    known: int = 0
    """Row groups of known classes."""


def made(config: PrepareConfig, source: Source, looks: Iterable[Look]) -> Layout:
    """Return the layout of a job.

    Args:
        config: of the job.
        source: its files.
        looks: at all of the source's `spans`.
    """
    known = 0
    if config.classes:
        meaning = "classes is the classes.parquet of an earlier job"
        known = len(open_names(config.classes, meaning).groups)
    parts = min(_MOST_PARTS, -(-sum(source.sizes.values()) // config.piece_bytes))
    return Layout(source.pieces(looks), max(1, parts), known)


def write(layout: Layout, storage: Storage) -> None:
    """Write a layout down."""
    listed = [[piece.file, piece.start, piece.stop] for piece in layout.pieces]
    storage.write_json(LAYOUT, {"pieces": listed, "parts": layout.parts, "known": layout.known})


def read(storage: Storage) -> Layout:
    """Return the layout that is written down."""
    found = storage.read_json(LAYOUT)
    pieces = [Piece(*piece) for piece in found["pieces"]]
    return Layout(pieces, int(found["parts"]), int(found["known"]))
