"""Charts as inline SVG in a frame of HTML: marks stretch with the page, their labels do not.

An SVG without an aspect ratio of its own holds the marks; ticks and labels are text around it,
placed in per cent. So a chart is as readable on a telephone as on a desk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.report.markup import Html, joined, tag
from orchestrator.words import duration

WIDE, HIGH = 2000, 1000
"""Of the drawing, in its own units."""
_EDGE = 0.02
"""Share of the width from an end within which a tick's words are set inside."""
_NICE = (1, 2, 5, 10)
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_TIMES = (
    *(1, 2, 5, 10, 15, 30),
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    _DAY,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One direction of a chart."""

    low: float
    high: float
    unit: str
    """What it counts, in words."""
    ticks: tuple[tuple[float, str], ...]
    """Where they are, and what stands there."""

    def share(self, value: float) -> float:
        """Return how far along a value is, 0 to 1."""
        width = self.high - self.low
        return min(1.0, max(0.0, (value - self.low) / width)) if width > 0 else 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of a legend."""

    mark: Html
    words: str


def short(value: float) -> str:
    """Return a number as it stands at a tick, such as `12 k`."""
    value = float(f"{value:.4g}")
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= (1e4 if unit == "k" else size):
            return f"{value / size:.4g} {unit}"
    return f"{value:,.4g}"


def percent(share: float) -> str:
    """Return a share as per cent, with as many digits as tell something."""
    return f"{100 * share:.3g} %" if abs(share) < 0.1 else f"{100 * share:.1f} %"


def whole_percent(share: float) -> str:
    """Return a round share as per cent, without digits that tell nothing."""
    return f"{100 * share:.4g} %"


def linear(
    low: float,
    high: float,
    unit: str,
    *,
    words: Callable[[float], str] = short,
    whole: bool = False,
    most: int = 6,
    tight: bool = False,
) -> Axis:
    """Return an axis with round ticks around values from `low` to `high`.

    Args:
        low: the least value.
        high: the greatest.
        unit: what is counted.
        words: for a tick.
        whole: whether there is nothing between whole numbers.
        most: ticks.
        tight: whether the axis ends with the values, not with a tick.
    """
    step = _step((high - low) / max(1, most - 1), whole)
    first = math.ceil(low / step - 1e-9) if tight else math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) if tight else math.ceil(high / step - 1e-9)
    last = max(last, first + (0 if tight else 1))
    # Rounded, since 3 * 0.1 is no tick to show.
    ticks = tuple(
        (value, words(value))
        for value in (float(f"{i * step:.12g}") for i in range(first, last + 1))
    )
    ends = (low, high) if tight else (ticks[0][0], ticks[-1][0])
    return Axis(low=ends[0], high=ends[1], unit=unit, ticks=ticks)


def clock(seconds: float, unit: str) -> Axis:
    """Return an axis of time from 0."""
    step: float = next((step for step in _TIMES if seconds <= 6 * step), 0)
    if not step:
        step = _DAY * _step(seconds / _DAY / 6, True)
    ticks = tuple((i * step, _moment(i * step)) for i in range(int(seconds // step) + 1))
    return Axis(low=0.0, high=max(seconds, 1e-9), unit=unit, ticks=ticks)


def doubling(values: Sequence[int], unit: str) -> Axis:
    """Return an axis on which twice as many is always as far away, with a tick at each value.

    It takes the logarithms to base 2 of what is drawn.
    """
    ticks = tuple((math.log2(value), short(value)) for value in values)
    return Axis(low=ticks[0][0], high=ticks[-1][0], unit=unit, ticks=ticks)


def line(points: Iterable[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return the path through points."""
    return "M" + "L".join(f"{_x(x, a)} {_y(y, b)}" for a, b in points)


def dots(points: Iterable[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return the path of dots: lines without length, whose round ends stay round."""
    return "".join(f"M{_x(x, a)} {_y(y, b)}h0" for a, b in points)


def area(steps: Sequence[tuple[float, float, float]], x: Axis, y: Axis) -> str:
    """Return the path around steps: from, to, and height."""
    ground = _y(y, y.low)
    top = "".join(f"V{_y(y, value)}H{_x(x, to)}" for _, to, value in steps)
    return f"M{_x(x, steps[0][0])} {ground}{top}V{ground}Z"


def box(left: float, right: float, bottom: float, top: float, x: Axis, y: Axis) -> str:
    """Return the path around a rectangle, at least wide enough to be seen."""
    start = x.share(left) * WIDE
    floor, roof = HIGH * (1 - y.share(bottom)), HIGH * (1 - y.share(top))
    width = max(3.0, x.share(right) * WIDE - start)
    start = min(start, WIDE - width)
    return f"M{start:.1f} {roof:.1f}h{width:.1f}V{floor:.1f}H{start:.1f}Z"


def path(d: str, kind: str, title: str = "") -> Html:
    """Return a path of a style, with what is told where the pointer rests on it."""
    return tag("path", *([tag("title", title)] if title else []), class_=kind, d=d)


def label(x: float, y: float, words: str, kind: str, title: str | None = None) -> Html:
    """Return text at a place of the drawing; both as shares, y from the bottom."""
    style = f"left:{100 * x:.2f}%;bottom:{100 * y:.2f}%"
    return tag("span", words, class_=f"at {kind}", style=style, title=title)


def swatch(kind: str, letter: str = "") -> Html:
    """Return the mark of an area for a legend."""
    return tag("span", letter, class_=f"swatch {kind}", aria_hidden="true")


def stroke(kind: str) -> Html:
    """Return the mark of a line for a legend."""
    drawn = tag("path", class_=kind, d="M0 5H28")
    return tag("svg", drawn, class_="stroke", viewBox="0 0 28 10", aria_hidden="true")


def figure(
    name: str,
    title: str,
    told: str,
    marks: Iterable[Html],
    x: Axis,
    y: Axis,
    *,
    height: int = 240,
    labels: Iterable[Html] = (),
    legend: Sequence[Key] = (),
    note: str = "",
) -> Html:
    """Return a chart with its axes.

    Args:
        name: of the chart in the page.
        title: its heading.
        told: what it shows, for those who do not see it.
        marks: paths in the units of the drawing, the first at the bottom.
        x: the axis to the right.
        y: the axis to the top.
        height: of the drawing in pixels.
        labels: over the marks.
        legend: what the marks mean.
        note: a sentence below the heading.
    """
    drawing = tag(
        "svg",
        _grid(x, y),
        *marks,
        viewBox=f"0 0 {WIDE} {HIGH}",
        preserveAspectRatio="none",
        focusable="false",
    )
    plot = tag(
        "div",
        *([tag("div", y.unit, class_="unit")] if y.unit else []),
        tag("div", *_y_ticks(y), class_="y"),
        tag("div", drawing, *labels, class_="area"),
        tag("div", *_x_ticks(x), class_="x"),
        tag("div", x.unit, class_="unit below"),
        class_="plot",
        role="img",
        aria_label=told,
        style=f"--height:{height}px",
    )
    keys = [tag("li", key.mark, " ", key.words) for key in legend]
    return tag(
        "figure",
        tag("figcaption", tag("h3", title), *([tag("p", note)] if note else [])),
        plot,
        *([tag("ul", *keys, class_="legend")] if keys else []),
        class_="chart",
        id=f"chart-{name}",
    )


def _grid(x: Axis, y: Axis) -> Html:
    across = "".join(f"M0 {_y(y, value)}H{WIDE}" for value, _ in y.ticks)
    marks = "".join(f"M{_x(x, value)} {HIGH}v14" for value, _ in x.ticks)
    return joined([path(across, "grid"), path(marks, "tick")])


def _y_ticks(y: Axis) -> list[Html]:
    return [
        tag("span", words, style=f"bottom:{100 * y.share(value):.2f}%") for value, words in y.ticks
    ]


def _x_ticks(x: Axis) -> list[Html]:
    found = []
    for i, (value, words) in enumerate(x.ticks):
        share = x.share(value)
        # Every second one is hidden where there is little room.
        place = "first" if share < _EDGE else "last" if share > 1 - _EDGE else ""
        kind = " ".join([*(["odd"] if i % 2 else []), *([place] if place else [])])
        found.append(tag("span", words, class_=kind or None, style=f"left:{100 * share:.2f}%"))
    return found


def _x(x: Axis, value: float) -> int:
    return round(x.share(value) * WIDE)


def _y(y: Axis, value: float) -> int:
    return round((1 - y.share(value)) * HIGH)


def _step(width: float, whole: bool) -> float:
    """Return the least round number that is not below `width`."""
    if not width > 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(width))
    step = next((n * size for n in _NICE if n * size >= width * (1 - 1e-9)), 10 * size)
    return max(1.0, step) if whole else step


def _moment(seconds: float) -> str:
    if seconds >= 2 * _DAY and seconds % _HOUR == 0:
        days, rest = divmod(seconds, _DAY)
        return f"{days:,.0f} d" + (f" {rest / _HOUR:.0f} h" if rest else "")
    words = duration(seconds)
    return words.removesuffix(" 00 min").removesuffix(" 00 s") if seconds else "0"
