"""Lines on the screen, and the commands that close them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType

from orchestrator.words import harmless

_LOG_WIDTH = 160
"""Columns of tables where the output is no terminal."""
_BESIDE = 8
"""Lines that a verb prints above and below its table."""
_FEWEST_LINES = 12


def show(lines: Iterable[str]) -> None:
    """Print lines, at once also where the output is a file.

    Raises:
        SystemExit: whoever read the output left, as `head` does.
    """
    with _read():
        for line in lines:
            print(harmless(line), flush=True)


def draw(*parts: RenderableType) -> None:
    """Print tables and text, an empty line after each.

    Raises:
        SystemExit: as of `show`.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
    with _read():
        for part in parts:
            console.print(part)
            console.print()


def lines_of_terminal() -> int | None:
    """Return how many lines the terminal has for a table; None where the output is none."""
    return max(_FEWEST_LINES, Console().height - _BESIDE) if sys.stdout.isatty() else None


def following(commands: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines that close a verb's output: commands to copy."""
    return ["next:", *(f"  {shlex.join(['manyworlds', *words])}" for words in commands)]


@contextmanager
def _read() -> Iterator[None]:
    """End the process quietly where nobody reads its output any more, as newer Rich does."""
    try:
        yield
    except BrokenPipeError as error:
        # Python writes what is left at its exit, and would complain again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise SystemExit(1) from error
