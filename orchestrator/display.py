"""What a run looks like while it trains: a live table, or plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live

from orchestrator.rollup import remark, totals
from orchestrator.tables import RunTable, headline, pace, steps
from orchestrator.views import WorldView
from orchestrator.words import duration, harmless

EVERY = 5.0
"""Seconds between two plain lines about one world that is merely going on."""
MANY = 16
"""Running worlds from which on one line tells how all of them go on."""
DRAWN_EVERY = 0.25
"""Seconds between two drawings of the table as long as no world changes its state."""


class Display(Protocol):
    """Shows the worlds of a run for as long as it is entered."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, views: Sequence[WorldView]) -> None:
        """Take in the present state of all worlds."""


def choose(console: Console | None = None) -> Display:
    """Return a live table for a terminal that can be drawn over, plain lines for anything else."""
    # FORCE_COLOR, as in CI, makes no terminal of a log.
    over = None if sys.stdout.isatty() else False
    console = console or Console(highlight=False, force_interactive=over)
    if console.is_interactive:
        return LiveTable(console)
    return PlainLines(lambda line: console.out(harmless(line)))


def table(views: Sequence[WorldView], room: int | None = None) -> RunTable:
    """Return the worlds as a table for Rich, rolled up where they need more than `room` lines."""
    return RunTable(views, room)


class LiveTable:
    """One table that is drawn over and over.

    Args:
        console: where.
        clock: seconds, to space the drawings out.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False)
        self._drawn: float | None = None
        self._states: list[tuple[str, int]] = []
        self._waiting: Sequence[WorldView] | None = None

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._waiting is not None:
            self._draw(self._waiting)
        self._live.__exit__(kind, error, traceback)

    def show(self, views: Sequence[WorldView]) -> None:
        """Draw the table anew, no higher than the terminal; if it is too soon for that, later."""
        states = [(view.state, view.attempts) for view in views]
        due = self._drawn is None or self._clock() - self._drawn >= DRAWN_EVERY
        if due or states != self._states:
            self._states = states
            self._draw(views)
        else:
            self._waiting = views

    def _draw(self, views: Sequence[WorldView]) -> None:
        self._live.update(table(views, room=max(8, self._console.height - 1)), refresh=True)
        self._drawn, self._waiting = self._clock(), None


class PlainLines:
    """A line for every change of state, and for progress a line now and then.

    Of `MANY` running worlds, progress is told in one line for all.

    Args:
        write: takes one line.
        clock: seconds, to space out lines about progress.
        every: seconds between two such lines of one world.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        every: float = EVERY,
    ) -> None:
        self._write = write
        self._clock = clock
        self._every = every
        self._seen: dict[int, tuple[str, int, str]] = {}
        self._written: dict[int | None, float] = {}
        """When there was a line about a world; None: about all of them."""
        self._steps: dict[int, int | None] = {}

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def show(self, views: Sequence[WorldView]) -> None:
        """Write the lines that are due."""
        moving = [v for v in views if v.state == "running" and self._steps.get(v.world) != v.step]
        together = sum(view.state == "running" for view in views) >= MANY
        for view in views:
            state = (view.state, view.attempts, remark(view))
            changed = self._seen.get(view.world, ("pending", 0, "")) != state
            if changed or (view in moving and not together and self._is_due(view.world)):
                self._write(line(view))
                self._seen[view.world] = state
                self._written[view.world] = self._clock()
                self._steps[view.world] = view.step
        if together and moving and self._is_due(None):
            self._write(summary_line(views))
            self._written[None] = self._clock()
            self._steps |= {view.world: view.step for view in views}

    def _is_due(self, what: int | None) -> bool:
        written = self._written.get(what)
        return written is None or self._clock() - written >= self._every


def summary_line(views: Sequence[WorldView]) -> str:
    """Return all worlds together as one line of text."""
    found = totals(views)
    return f"{headline(found)}  {pace(found)}"


def line(view: WorldView) -> str:
    """Return one world as one line of text."""
    parts = [f"world {view.world:3d} {view.state:8}"]
    if view.state != "done":
        parts.append(steps(view))
    if view.rows_per_second is not None and view.state == "running":
        parts.append(f"{view.rows_per_second:,.0f} rows/s")
    if view.loss is not None:
        parts.append(f"loss {view.loss:.3f}")
    if view.bucket_accuracy is not None:
        parts.append(f"bucket accuracy {view.bucket_accuracy:.1%}")
    if view.seconds_left is not None and view.state == "running":
        parts.append(f"{duration(view.seconds_left)} left")
    if view.attempts > 1:
        parts.append(f"attempt {view.attempts}")
    parts.append(remark(view))
    return "  ".join(part for part in parts if part).rstrip()
