"""Where the rows of a file end, looked for in many parts of it at a time.

In a CSV file a line's end is no row's where it stands between quotes: where their number before
it is odd. A part of a file alone cannot tell how many stand before itself, so it tells both: where
rows end if they are even in number, and where if they are odd. Whoever has all parts knows which.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.jit import kernel

_LOOK = 1 << 22
"""Bytes that are looked through at a time."""
_BEGIN = 1 << 16
"""Bytes that are read first where a line's end is likely near."""
_NEWLINE, _QUOTE = ord("\n"), ord('"')


@dataclass(frozen=True)
class Piece:
    """A part of a file."""

    file: str
    """Its path relative to the source."""
    start: int
    """The first byte; of a Parquet file, the first row group."""
    stop: int
    """The byte after the last; likewise."""


class Look(NamedTuple):
    """What a part of a file tells."""

    quotes: int
    """Its quotes: 0 if they are even in number, 1 if odd."""
    even: list[int]
    """Where the file is cut if the quotes before the part are even in number."""
    odd: list[int]
    """Where it is if they are odd."""


def look_through(opened: Any, part: Piece, step: int, *, quoted: bool) -> Look:
    """Return where a file may be cut: at the first row's end after each multiple of some bytes.

    Args:
        opened: the file.
        part: of it; begins at a multiple of `step`.
        step: bytes from one cut to the next.
        quoted: whether what stands between quotes ends no row.
    """
    quotes, ends = 0, np.zeros((0, 2), np.int64)
    for begin in range(part.start, part.stop, step):
        found = np.full(2, -1, np.int64)
        stop = min(begin + step, part.stop)
        if quoted:
            for at, text in _blocks(opened, begin, stop, _LOOK):
                quotes = _scan(np.frombuffer(text, np.uint8), at, quotes, found)
        elif begin:
            found[0] = _line_end(opened, begin, stop)
        if begin:
            ends = np.concatenate([ends, [found]])
    even, odd = ends.T
    return Look(quotes, even[even > 0].tolist(), odd[odd > 0].tolist())


def cut(file: str, size: int, looks: Iterable[Look]) -> list[Piece]:
    """Return the pieces of a file.

    Args:
        file: its name.
        size: its bytes.
        looks: at all of its parts, in order.
    """
    cuts, quotes = [0], 0
    for look in looks:
        cuts += look.odd if quotes % 2 else look.even
        quotes += look.quotes
    cuts = [*(at for at in cuts if at < size), size]
    return [Piece(file, *each) for each in itertools.pairwise(cuts)]


def first_line(opened: Any) -> bytes:
    """Return the first line of a file, with its end."""
    text = b""
    for _, block in _blocks(opened, 0, None, _BEGIN):
        text += block
        if b"\n" in block:
            break
    line, newline, _ = text.partition(b"\n")
    return line + newline


def _line_end(opened: Any, begin: int, stop: int) -> int:
    for at, text in _blocks(opened, begin, stop, _BEGIN):
        if (newline := text.find(b"\n")) >= 0:
            return at + newline + 1
    return -1


def _blocks(opened: Any, begin: int, stop: int | None, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield a part of a file in blocks, with where each begins; later ones are large."""
    opened.seek(begin)
    while stop is None or begin < stop:
        text = opened.read(size if stop is None else min(size, stop - begin))
        if not text:
            return
        yield begin, text
        begin += len(text)
        size = _LOOK


@kernel
def _scan(data: NDArray[np.uint8], at: int, quotes: int, found: NDArray[np.int64]) -> int:
    """Note the first line's ends after an even and after an odd number of quotes.

    Args:
        data: some of a file.
        at: where it begins.
        quotes: before it, modulo 2.
        found: (2,) for both numbers, -1 where nothing is found yet.

    Returns:
        The quotes before what follows, modulo 2.
    """
    for position in range(len(data)):
        if data[position] == _QUOTE:
            quotes = 1 - quotes
        elif data[position] == _NEWLINE and found[quotes] < 0:
            found[quotes] = at + position + 1
    return quotes
