"""The figures of docs/, as SVG: same code and same results, same bytes.

    python -m benchmarks.figures

They stand on a light ground of their own, so that they can be read on a dark page too.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import RESULTS, ROOT
from orchestrator.plan.bounds import CLASSES_A_BUCKET, CONFUSION, DEVIATION, bounds
from workers.config import PartitionConfig
from workers.partition import partition_for

IMAGES = ROOT / "docs" / "images"
WORLDS, BUCKETS = 3, 4
"""Of the figure of partitions."""
CLASSES = "bag book chair clock cup desk hat lamp pen phone shirt shoe".split()
"""In order of their ids."""
BOUNDED = {10**5: "K = 10⁵", 10**6: "K = 10⁶", 10**8: "K = 10⁸"}
SETS = ("tldr", "api_search", "debian_depends", "omw", "diginetica", "gowalla")
COMBINED = "api_search"
"""The set of the figure of combiners."""
METRIC = "R@10"
_COLOURS = ("#1f6fb4", "#c2410c", "#15803d", "#7e3fb0", "#a16207", "#475569")
_INK, _PALE, _GROUND, _LINE = "#1f2933", "#5b6770", "#fbfbf9", "#d9dce0"
_WIDTH = 760
_ROOM = 14.0
"""Between two labels at the end of curves, from line to line."""


def main() -> None:
    """Write all figures."""
    IMAGES.mkdir(exist_ok=True)
    for name, svg in figures().items():
        (IMAGES / name).write_text(svg)
        print((IMAGES / name).relative_to(ROOT))


def figures() -> dict[str, str]:
    """Return the text of each figure by the name of its file."""
    return {
        "partitions.svg": partitions(),
        "bounds.svg": bounds_by_buckets(),
        "accuracy.svg": accuracy(),
        "combiners.svg": combiners(),
    }


def shared_once() -> tuple[int, int]:
    """Return the first two classes that share a bucket in world 0 and in no other world."""
    first, *others = _buckets()
    for one in range(len(CLASSES)):
        for other in range(one + 1, len(CLASSES)):
            together = first[one] == first[other]
            if together and all(world[one] != world[other] for world in others):
                return one, other
    raise AssertionError("expected two classes that only world 0 puts together, found none")


def partitions() -> str:
    """Return the figure of a few classes in the buckets of a few worlds."""
    marked = dict(zip(shared_once(), _COLOURS[1:], strict=False))
    left, top, wide, high, gap = 80, 20, 162, 62, 6
    parts = []
    for world, buckets in enumerate(_buckets()):
        y = top + world * (high + 22)
        parts.append(_text(16, y + high / 2 + 5, f"world {world}", weight=600))
        for bucket in range(BUCKETS):
            x = left + bucket * (wide + gap)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="5" fill="#ffffff"'
                f' stroke="{_LINE}" stroke-width="1.5"/>'
            )
            inside = [number for number in range(len(CLASSES)) if buckets[number] == bucket]
            for place, number in enumerate(inside):
                middle = x + 4 + (wide - 8) * (2 * place + 1) / (2 * len(inside))
                parts.append(_class(middle, y + high / 2, CLASSES[number], marked.get(number)))
    one, other = (CLASSES[number] for number in marked)
    words = (
        f"{len(CLASSES)} classes in {BUCKETS} buckets of {WORLDS} worlds: {one} and {other}"
        " share a bucket in world 0, and in no other"
    )
    return _svg(parts, top + WORLDS * (high + 22), words)


def bounds_by_buckets() -> str:
    """Return the figure of how many worlds it takes, by number of buckets."""
    curves = []
    for (classes, name), colour in zip(BOUNDED.items(), _COLOURS, strict=False):
        most = classes // CLASSES_A_BUCKET
        counts = [2**power for power in range(6, 17) if 2**power <= most]
        found = [(count, bounds(classes, count)) for count in counts]
        told = tuple((float(count), float(one.least_for_confusion)) for count, one in found)
        curves.append(Curve(f"all pairs apart, {name}", colour, told))
        if classes == max(BOUNDED):
            told = tuple((float(count), float(one.least_for_deviation)) for count, one in found)
            curves.append(Curve(f"deviation {DEVIATION:g}, {name}", _INK, told, dashed=True))
    ticks = [2**power for power in range(6, 17, 2)]
    x = Axis(64, 65536, {float(tick): f"{tick:,}" for tick in ticks}, "buckets B", log=True)
    y = Axis(1, 200, {float(tick): str(tick) for tick in (1, 2, 5, 10, 20, 50, 100, 200)},
             "worlds R at least", log=True)  # fmt: skip
    words = (
        f"Worlds that it takes by number of buckets, so that the chance of any two classes with"
        f" all buckets in common stays under {CONFUSION:g}, and the deviation under {DEVIATION:g}"
    )
    return _chart(x, y, curves, words)


def accuracy() -> str:
    """Return the figure of recall by number of worlds, on all measured sets."""
    curves = [
        Curve(name, colour, _measured(_results(name), "log"))
        for name, colour in zip(SETS, _COLOURS, strict=True)
    ]
    words = f"{METRIC} by number of worlds, combiner log, on six sets"
    return _chart(_by_worlds(), _recall(70), curves, words)


def combiners() -> str:
    """Return the figure of recall by number of worlds for all combiners on one set."""
    found = _results(COMBINED)
    curves = [
        Curve(name, colour, _measured(found, name))
        for name, colour in zip(found["mach"]["metrics"], _COLOURS, strict=False)
    ]
    words = f"{METRIC} by number of worlds on {COMBINED}, by combiner"
    return _chart(_by_worlds(), _recall(70), curves, words)


@dataclass(frozen=True)
class Axis:
    """One direction of a chart."""

    low: float
    high: float
    ticks: Mapping[float, str]
    title: str
    log: bool = False

    def share(self, value: float) -> float:
        """Return how far along a value is, 0 to 1."""
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


@dataclass(frozen=True)
class Curve:
    """Points with a name and a colour."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


def _chart(x: Axis, y: Axis, curves: Sequence[Curve], words: str) -> str:
    left, top, right, bottom, height = 64.0, 34.0, 206.0, 52.0, 360.0

    def place(point: tuple[float, float]) -> tuple[float, float]:
        wide, high = _WIDTH - left - right, height - top - bottom
        return left + wide * x.share(point[0]), height - bottom - high * y.share(point[1])

    parts = []
    for value, told in y.ticks.items():
        level = place((x.low, value))[1]
        parts.append(_line(left, level, _WIDTH - right, level))
        parts.append(_text(left - 8, level + 4, told, anchor="end", fill=_PALE))
    for value, told in x.ticks.items():
        along = place((value, y.low))[0]
        parts.append(_line(along, height - bottom, along, height - bottom + 5))
        parts.append(_text(along, height - bottom + 20, told, anchor="middle", fill=_PALE))
    middle = (left + _WIDTH - right) / 2
    parts.append(_text(middle, height - 10, x.title, anchor="middle"))
    parts.append(_text(left - 40, 18, y.title))
    ends = []
    for curve in curves:
        points = [place(point) for point in curve.points]
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{curve.colour}"'
            f' stroke-width="2"{dash}/>'
        )
        parts += [
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{curve.colour}"/>'
            for across, down in points
        ]
        ends.append((points[-1], curve))
    for level, ((across, down), curve) in _apart(ends):
        label = _WIDTH - right + 14
        parts.append(_line(across + 5, down, label - 3, level, curve.colour, 0.35))
        parts.append(_text(label, level + 4, curve.name, fill=curve.colour, weight=600))
    return _svg(parts, height, words)


End = tuple[tuple[float, float], Curve]


def _apart(ends: Sequence[End]) -> list[tuple[float, End]]:
    """Return ends of curves from top to bottom, with heights at which labels do not overlap."""
    ordered = sorted(reversed(ends), key=lambda end: end[0][1])
    levels = [end[0][1] for end in ordered]
    for _ in range(100):
        for upper in range(len(levels) - 1):
            short = _ROOM - (levels[upper + 1] - levels[upper])
            if short > 0:
                levels[upper] -= short / 2
                levels[upper + 1] += short / 2
    return list(zip(levels, ordered, strict=True))


def _by_worlds() -> Axis:
    return Axis(1, 16, {float(n): str(n) for n in (1, 2, 4, 8, 16)}, "worlds R", log=True)


def _recall(most: int) -> Axis:
    return Axis(0, most, {float(n): f"{n} %" for n in range(0, most + 1, 10)}, METRIC)


def _results(name: str) -> dict[str, Any]:
    path: Path = RESULTS / "accuracy" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _measured(found: Mapping[str, Any], combiner: str) -> tuple[tuple[float, float], ...]:
    by_worlds = found["mach"]["metrics"][combiner]
    return tuple((float(worlds), 100 * told[METRIC]) for worlds, told in by_worlds.items())


def _buckets() -> list[list[int]]:
    config = PartitionConfig(buckets=BUCKETS)
    ids = np.arange(len(CLASSES))
    return [
        partition_for(config, len(CLASSES), 0, world).buckets_of(ids).tolist()
        for world in range(WORLDS)
    ]


def _class(x: float, y: float, name: str, colour: str | None) -> str:
    if colour is None:
        return _text(x, y + 5, name, anchor="middle", fill=_PALE)
    ring = (
        f'<rect x="{x - 23:.1f}" y="{y - 14:.1f}" width="46" height="28" rx="14" fill="{colour}"/>'
    )
    return ring + _text(x, y + 5, name, anchor="middle", fill="#ffffff", weight=600)


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = _INK, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
        f' font-weight="{weight}">{html.escape(words)}</text>'
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, stroke: str = _LINE, opacity: float = 1
) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"'
        f' stroke-opacity="{opacity:g}"/>'
    )


def _svg(parts: Sequence[str], height: float, words: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img"'
        f' width="{_WIDTH}" font-family="system-ui, sans-serif" font-size="13">'
    )
    ground = f'<rect width="{_WIDTH}" height="{height:g}" rx="8" fill="{_GROUND}"/>'
    return "\n".join([head, f"<title>{html.escape(words)}</title>", ground, *parts, "</svg>", ""])


if __name__ == "__main__":
    main()
