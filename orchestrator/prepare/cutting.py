"""Where the rows of a file end, looked for in many parts of it at a time.

In a CSV file a line's end is no row's where it stands in a quoted text: one that begins with a
quote, and ends with the next that is not doubled; quotes elsewhere are signs like others. A part of
a file alone cannot tell what it begins in, so it tells for each case where rows end, and what the
next part begins in then. Whoever has all parts knows which.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.jit import inline, kernel

_LOOK = 1 << 22
"""Bytes that are looked through at a time."""
_BEGIN = 1 << 16
"""Bytes that are read first where a line's end is likely near."""
_NEWLINE, _RETURN, _QUOTE, _COMMA = (ord(sign) for sign in '\n\r",')

OUTSIDE, INSIDE, CLOSED = range(3)
"""Where a part begins: in no quoted text, in one, or after a quote that ends one or is doubled."""


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
    """What a part of a file tells; each by where it begins: `OUTSIDE`, `INSIDE` or `CLOSED`."""

    after: list[int]
    """(3,) where the next part begins then."""
    cuts: list[list[int]]
    """(3,) where the file is cut then."""


def plain(cuts: list[int]) -> Look:
    """Return what a part without quotes tells, which is cut there."""
    return Look([OUTSIDE, INSIDE, CLOSED], [cuts, [], []])


def look_through(opened: Any, part: Piece, step: int, *, quoted: bool) -> Look:
    """Return where a file may be cut: at the first row's end after each multiple of some bytes.

    Args:
        opened: the file.
        part: of it; begins at a multiple of `step`.
        step: bytes from one cut to the next.
        quoted: whether what stands between quotes ends no row.
    """
    if not quoted:
        begins = range(max(part.start, step), part.stop, step)
        found = [_line_end(opened, begin, min(begin + step, part.stop)) for begin in begins]
        return plain([end for end in found if end > 0])
    before = ord(_byte(opened, part.start - 1)) if part.start else _NEWLINE
    reader = _Quotes(np.array([False, True, False]), np.array([-2, -2, part.start - 1]))
    cuts: list[list[int]] = [[], [], []]
    for begin in range(part.start, part.stop, step):
        ends = np.full(3, -1, np.int64)
        for at, text in _blocks(opened, begin, min(begin + step, part.stop), _LOOK):
            before = _scan(np.frombuffer(text, np.uint8), at, before, *reader, ends)
        if begin:
            for known, end in zip(cuts, ends.tolist(), strict=True):
                known += [end] if end > 0 else []
    closed = np.where(reader.closed == part.stop - 1, CLOSED, OUTSIDE)
    return Look(np.where(reader.inside, INSIDE, closed).tolist(), cuts)


def cut(file: str, size: int, looks: Iterable[Look]) -> list[Piece]:
    """Return the pieces of a file.

    Args:
        file: its name.
        size: its bytes.
        looks: at all of its parts, in order.
    """
    cuts, state = [0], OUTSIDE
    for look in looks:
        cuts += look.cuts[state]
        state = look.after[state]
    cuts = [*(at for at in cuts if at < size), size]
    return [Piece(file, *each) for each in itertools.pairwise(cuts)]


def unended(text: bytes) -> int | None:
    """Return where the row begins in which a quoted text does not end; None: all of them do.

    Args:
        text: whole rows of a CSV file, but for that one.
    """
    data = np.frombuffer(text, np.uint8)
    begin = int(_last_row(data))
    return begin if begin >= 0 else None


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


class _Quotes(NamedTuple):
    # What is known of quotes up to a place, by where the part begins.
    inside: NDArray[np.bool_]
    """(3,) whether a quoted text has begun and not ended."""
    closed: NDArray[np.int64]
    """(3,) where the last quote stands that ended one."""


def _byte(opened: Any, at: int) -> bytes:
    opened.seek(at)
    return bytes(opened.read(1))


@inline
def _turns(inside: Any, closed: Any, at: Any, before: Any) -> Any:
    """Return whether a quote begins or ends a quoted text.

    Args:
        inside: whether it stands in one.
        closed: where the last quote stands that ended one.
        at: where it stands.
        before: the sign before it.
    """
    doubled = closed == at - 1
    return inside or doubled or before in (_COMMA, _NEWLINE, _RETURN)


@kernel
def _scan(
    data: NDArray[np.uint8],
    at: int,
    before: int,
    inside: NDArray[np.bool_],
    closed: NDArray[np.int64],
    found: NDArray[np.int64],
) -> int:
    """Note the first line's end in no quoted text, for each of where the part begins.

    Args:
        data: some of a file.
        at: where it begins.
        before: the sign before it.
        inside: as in `_Quotes`; brought up to date.
        closed: likewise.
        found: (3,), -1 where nothing is found yet.

    Returns:
        The last sign.
    """
    for position in range(len(data)):
        sign = data[position]
        if sign == _QUOTE:
            for begin in range(3):
                if _turns(inside[begin], closed[begin], at + position, before):
                    if inside[begin]:
                        closed[begin] = at + position
                    inside[begin] = not inside[begin]
        elif sign == _NEWLINE:
            for begin in range(3):
                if not inside[begin] and found[begin] < 0:
                    found[begin] = at + position + 1
        before = sign
    return before


@kernel
def _last_row(data: NDArray[np.uint8]) -> int:
    """Return where the last row begins if a quoted text does not end in it, else -1."""
    inside, closed, before, begin = False, -2, _NEWLINE, 0
    for position in range(len(data)):
        sign = data[position]
        if sign == _QUOTE:
            if _turns(inside, closed, position, before):
                if inside:
                    closed = position
                inside = not inside
        elif sign == _NEWLINE and not inside:
            begin = position + 1
        before = sign
    return begin if inside else -1
