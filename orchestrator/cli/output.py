"""Lines on the screen, and the commands that close them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType

_LOG_WIDTH = 160
"""Columns of tables where the output is no terminal."""
_BESIDE = 8
"""Lines that a verb prints above and below its table."""
_FEWEST_LINES = 12


def show(lines: Iterable[str]) -> None:
    """Print lines, at once also where the output is a file."""
    for line in lines:
        print(line, flush=True)


def draw(*parts: RenderableType) -> None:
    """Print tables and text, an empty line after each."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
    for part in parts:
        console.print(part)
        console.print()


def lines_of_terminal() -> int | None:
    """Return how many lines the terminal has for a table; None where the output is none."""
    return max(_FEWEST_LINES, Console().height - _BESIDE) if sys.stdout.isatty() else None


def following(commands: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines that close a verb's output: commands to copy."""
    return ["next:", *(f"  {shlex.join(['manyworlds', *words])}" for words in commands)]
