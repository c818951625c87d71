"""What a run looks like while it trains: a live table, or plain lines in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.views import WorldView
from orchestrator.words import duration, plural

STYLES = {"running": "cyan", "done": "green", "failed": "red", "waiting": "yellow"}
EVERY = 5.0
"""Seconds between two plain lines about one world that is merely going on."""
_ORDER = ("running", "failed", "waiting", "pending", "done")


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
    """Return a live table for a terminal, plain lines for anything else."""
    console = console or Console(highlight=False)
    if console.is_terminal:
        return LiveTable(console)
    return PlainLines(lambda line: console.print(line, soft_wrap=True, markup=False))


class LiveTable:
    """One table that is drawn over and over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def show(self, views: Sequence[WorldView]) -> None:
        """Draw the table anew, no higher than the terminal."""
        self._live.update(table(views, room=max(4, self._console.height - 6)), refresh=True)


class PlainLines:
    """A line for every change of state, and for progress a line now and then.

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
        self._written: dict[int, float] = {}
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
        now = self._clock()
        for view in views:
            state = (view.state, view.attempts, _remark(view))
            changed = self._seen.get(view.world, ("pending", 0, "")) != state
            moved = self._steps.get(view.world) != view.step
            due = now - self._written.get(view.world, now - self._every) >= self._every
            if changed or (view.state == "running" and moved and due):
                self._write(line(view))
                self._seen[view.world] = state
                self._written[view.world] = now
                self._steps[view.world] = view.step


def line(view: WorldView) -> str:
    """Return one world as one line of text."""
    parts = [f"world {view.world:3d} {view.state:8}"]
    if view.state != "done":
        parts.append(_progress(view))
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
    parts.append(_remark(view))
    return "  ".join(part for part in parts if part).rstrip()


def table(views: Sequence[WorldView], room: int | None = None) -> Table:
    """Return the worlds as a table; of more than `room` the ones that tell most."""
    shown = sorted(views, key=lambda view: (_rank(view.state), view.world))[:room]
    counts = Counter(view.state for view in views)
    ordered = sorted(counts, key=_rank)
    title = ", ".join(f"{counts[state]} {state}" for state in ordered)
    hidden = len(views) - len(shown)
    result = Table(
        title=f"{len(views)} worlds: {title}",
        title_justify="left",
        title_style="bold",
        caption=f"and {hidden} more" if hidden else None,
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("world", "state", "step", "rows/s", "loss", "bucket acc.", "left", "tries"):
        result.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    result.add_column("remark", overflow="ellipsis", no_wrap=True)
    for view in sorted(shown, key=lambda view: view.world):
        result.add_row(*_cells(view))
    return result


def _cells(view: WorldView) -> list[Text | str]:
    running = view.state == "running"
    rate, left = view.rows_per_second, view.seconds_left
    return [
        str(view.world),
        Text(view.state, style=STYLES.get(view.state, "")),
        _progress(view),
        f"{rate:,.0f}" if running and rate is not None else "",
        f"{view.loss:.3f}" if view.loss is not None else "",
        f"{view.bucket_accuracy:.1%}" if view.bucket_accuracy is not None else "",
        duration(left) if running and left is not None else "",
        str(view.attempts),
        Text(_remark(view)),
    ]


def _progress(view: WorldView) -> str:
    if view.step is None:
        return ""
    return f"{view.step:,}/{view.steps:,}" if view.steps else f"{view.step:,}"


def _remark(view: WorldView) -> str:
    """Return the trouble that a world is in, or how its last attempt ended, and what it lacks."""
    running = view.trouble and view.state == "running"
    left_out = f"{plural(view.left_out_rows, 'row')} left out" if view.left_out_rows else ""
    remarks = [view.trouble if running else view.cause, left_out]
    return "; ".join(remark for remark in remarks if remark)


def _rank(state: str) -> int:
    return _ORDER.index(state) if state in _ORDER else len(_ORDER)
