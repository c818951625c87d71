"""The worlds of a run as tables of Rich, fitted to the terminal that they are drawn on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.rollup import Place, Spread, Totals, by_node, by_state, to_look_at, totals
from orchestrator.rollup import remark as remark_of
from orchestrator.views import WorldView
from orchestrator.words import duration, harmless, plural

STYLES = {
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "waiting": "yellow",
    "pending": "dim",
}
_LEAST_TELLING = ("device", "tries", "node", "epoch", "rows/s", "bucket acc.")
"""Columns that go, in this order, where the terminal is narrow."""
_UNTOLD = ("device", "node", "epoch", "remark")
"""Columns that go where they have nothing to say."""
_SHORT_REMARK, _NARROW, _WIDE = 16, 80, 0.7
"""What a remark is worth, if it is that long: so many columns, or this share of what a terminal
has beyond so many."""
_LONGEST_NODE = 20
_BAR = 30
_GAP = 2
_HEAD = 3
"""Lines above the worlds: the counts, the bar, and an empty one."""


@dataclass(frozen=True)
class RunTable:
    """All worlds of a run; where there is no room for all, what they come to together.

    Rolled up, it shows the worlds of each state, the machines if there are several, and of the
    worlds those that need attention.

    Args:
        views: of the worlds.
        room: lines at most; None: any number.
    """

    views: Sequence[WorldView]
    room: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = totals(self.views)
        yield _counts(found)
        yield _bar(found, options.max_width)
        yield Text()
        # Those of the table's heading too.
        if self.room is None or len(self.views) + _HEAD + 1 <= self.room:
            rows = [(view, remark_of(view)) for view in self.views]
            yield _worlds(rows, options.max_width)
        else:
            yield from _rolled_up(self.views, self.room - _HEAD, options.max_width)


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[WorldView], str]
    justify_right: bool = True


def headline(found: Totals) -> str:
    """Return how far a run is, in one line."""
    counts = ", ".join(f"{count:,} {state}" for state, count in found.counts.items())
    return f"{plural(found.worlds, 'world')}: {counts}"


def pace(found: Totals) -> str:
    """Return how far, how fast and how long still, in one line."""
    parts = [f"{found.share:.1%}"]
    if found.rows_per_second:
        parts.append(f"{found.rows_per_second:,.0f} rows/s")
    if found.seconds_left is not None:
        parts.append(f"{duration(found.seconds_left)} left")
    return "  ".join(parts)


def steps(view: WorldView) -> str:
    """Return how many steps a world made of how many."""
    if view.step is None:
        return ""
    return f"{view.step:,}/{view.steps:,}" if view.steps else f"{view.step:,}"


def _counts(found: Totals) -> Text:
    text = Text(f"{plural(found.worlds, 'world')}: ", style="bold")
    parts = [Text(f"{n:,} {state}", STYLES.get(state, "")) for state, n in found.counts.items()]
    return text + Text(", ").join(parts)


def _bar(found: Totals, width: int) -> Table:
    result = Table.grid(padding=(0, _GAP))
    bar = ProgressBar(
        total=1.0,
        completed=found.share,
        width=min(_BAR, width // 3),
        complete_style="cyan",
        finished_style="green",
    )
    result.add_row(bar, pace(found))
    return result


def _worlds(rows: Sequence[tuple[WorldView, str]], width: int) -> Table:
    """Return a row for each world, with as many columns as the width has room for."""
    views = [view for view, _ in rows]
    cells = {column.heading: [column.cell(view) for view in views] for column in _columns(views)}
    cells["remark"] = [" ".join(harmless(words).split()) for _, words in rows]
    for heading in _UNTOLD:
        if not any(cells[heading]):
            del cells[heading]
    for heading in _LEAST_TELLING:
        # There is no gap after the last column.
        if sum(_widths(cells, width)) - _GAP > width:
            cells.pop(heading, None)
    left = [column.heading for column in _columns(views) if not column.justify_right]
    result = _table()
    for heading, wide in zip(cells, _widths(cells, width), strict=True):
        result.add_column(
            heading,
            justify="left" if heading in (*left, "remark") else "right",
            overflow="ellipsis",
            no_wrap=True,
            width=wide - _GAP,
        )
    for row in zip(*cells.values(), strict=True):
        styled = zip(cells, row, strict=True)
        result.add_row(*(Text(text, _style(heading, text)) for heading, text in styled))
    return result


def _columns(views: Sequence[WorldView]) -> list[_Column]:
    names = _short_names(views)
    return [
        _Column("world", lambda view: str(view.world)),
        _Column("state", lambda view: view.state, justify_right=False),
        _Column("device", lambda view: view.device, justify_right=False),
        _Column("node", lambda view: names.get(view.node, ""), justify_right=False),
        _Column("epoch", _epoch),
        _Column("step", steps),
        _Column("rows/s", lambda view: _if_running(view, view.rows_per_second, "{:,.0f}")),
        _Column("loss", lambda view: _number(view.loss)),
        _Column("bucket acc.", lambda view: _share(view.bucket_accuracy)),
        _Column("left", _left),
        _Column("tries", lambda view: str(view.attempts)),
    ]


def _widths(cells: dict[str, list[str]], width: int) -> list[int]:
    """Return what each column takes of a terminal's width, with its gap."""
    wanted = {name: max(map(cell_len, (name, *cells[name]))) + _GAP for name in cells}
    if "remark" in wanted:
        longest = wanted.pop("remark")
        room = max(
            width + _GAP - sum(wanted.values()), _SHORT_REMARK, int(_WIDE * (width - _NARROW))
        )
        wanted["remark"] = min(longest, room)
    return list(wanted.values())


def _style(heading: str, text: str) -> str:
    return STYLES.get(text, "") if heading == "state" else ""


def _short_names(views: Sequence[WorldView]) -> dict[str, str]:
    """Return the machines' names as short as tells them apart: without domains and Ray's ids."""
    nodes = sorted({view.node for view in views if view.node})
    kinds = [[_cut(shorten(node)) for node in nodes] for shorten in (_label, _host, str)]
    counts = [Counter(names) for names in kinds]
    return {
        node: next(
            (names[i] for names, count in zip(kinds, counts, strict=True) if count[names[i]] == 1),
            kinds[-1][i],
        )
        for i, node in enumerate(nodes)
    }


def _host(node: str) -> str:
    return node.partition(" (")[0]


def _label(node: str) -> str:
    label = _host(node).partition(".")[0]
    # Of an address the first number tells nothing.
    return _host(node) if label.isdecimal() or not label else label


def _cut(name: str) -> str:
    """Return a name no longer than a column; machines of one cluster differ at their ends."""
    name = harmless(name)
    return name if len(name) <= _LONGEST_NODE else f"…{name[1 - _LONGEST_NODE :]}"


def _rolled_up(views: Sequence[WorldView], room: int, width: int) -> Iterator[RenderableType]:
    states = by_state(views)
    yield _state_table(states)
    room -= 1 + len(states)
    places = by_node(views)
    if len(places) > 1 and room > _HEAD + 2:
        shown = places[: max(2, (room - _HEAD) // 3)]
        yield Text()
        yield _node_table(shown, views, len(places) - len(shown))
        room -= 2 + len(shown) + (len(shown) < len(places))
    # An empty line, the title, the heading and what was left out.
    yield from _single(views, max(1, room - 4), width)


def _single(views: Sequence[WorldView], room: int, width: int) -> Iterator[RenderableType]:
    """Yield the worlds that need attention, and all that run if there is room for them too."""
    found, title = to_look_at(views), "worlds to look at"
    told = {view.world for view, _ in found}
    others = [view for view in views if view.state == "running" and view.world not in told]
    chosen = found[:room]
    if others and len(found) + len(others) <= room:
        chosen += [(view, remark_of(view)) for view in others]
        title = "worlds to look at, and all that run" if found else "worlds that run"
    if chosen:
        yield Text()
        yield Text(title, "bold")
        yield _worlds(chosen, width)
    if len(found) > room:
        yield Text(f"and {len(found) - room:,} more", "dim")


def _state_table(states: Sequence[Totals]) -> Table:
    result = _table()
    result.add_column("state", no_wrap=True)
    for heading in ("worlds", "made", "rows/s", "loss", "bucket acc."):
        result.add_column(heading, justify="right", no_wrap=True)
    for found in states:
        (state,) = found.counts
        result.add_row(
            Text(state, STYLES.get(state, "")),
            f"{found.worlds:,}",
            f"{found.share:.1%}",
            f"{found.rows_per_second:,.0f}" if found.rows_per_second else "",
            _range(found.loss, _number),
            _range(found.bucket_accuracy, _share),
        )
    return result


def _node_table(places: Sequence[Place], views: Sequence[WorldView], hidden: int) -> Table:
    names = _short_names(views)
    result = _table(f"and {plural(hidden, 'machine')} more" if hidden else None)
    for heading in ("node", "device"):
        result.add_column(heading, no_wrap=True)
    for heading in ("running", "rows/s", "done"):
        result.add_column(heading, justify="right", no_wrap=True)
    for place in places:
        rate = f"{place.rows_per_second:,.0f}" if place.rows_per_second else ""
        name = Text(names[place.node])
        result.add_row(name, Text(place.device), str(place.running), rate, str(place.done))
    return result


def _table(caption: str | None = None) -> Table:
    return Table(
        caption=caption,
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, _GAP // 2),
        header_style="bold",
    )


def _range(spread: Spread | None, words: Callable[[float], str]) -> str:
    """Return the median, and between what the values are."""
    if spread is None:
        return ""
    middle = words(spread.median)
    if spread.least == spread.most:
        return middle
    return f"{middle} ({words(spread.least)}–{words(spread.most)})"


def _epoch(view: WorldView) -> str:
    if view.epoch is None:
        return ""
    return f"{view.epoch}/{view.epochs}" if view.epochs else str(view.epoch)


def _left(view: WorldView) -> str:
    running = view.state == "running" and view.seconds_left is not None
    return duration(view.seconds_left or 0.0) if running else ""


def _if_running(view: WorldView, value: float | None, words: str) -> str:
    return words.format(value) if view.state == "running" and value is not None else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
