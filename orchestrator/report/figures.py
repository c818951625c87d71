"""The charts of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import log2
from statistics import median

from orchestrator.report import charts
from orchestrator.report.charts import Axis, Key
from orchestrator.report.curves import Curve
from orchestrator.report.facts import Facts, Learning, Measured
from orchestrator.report.markup import Html
from orchestrator.report.times import CUT_OFF, RUNNING, Span
from orchestrator.words import duration, plural

CAUSES = {
    "done": "",
    RUNNING: "",
    "stopped": "S",
    "preemption": "P",
    "error": "E",
    "out of memory": "M",
    "hung": "H",
    "data": "D",
    "config": "C",
    CUT_OFF: "X",
}
"""How attempts end, and the letter that stands for it on a bar."""
_TALL_ROWS = 48
"""Worlds whose bars are high enough for a letter."""
_MOST_TITLES = 5000
"""Bars that tell of themselves; more make the page too large."""
_LETTER = 0.022
"""Share of the width that a letter needs."""
_MOST_BARS = 40
_FEWEST_LOADS = 10
"""On the axis of loads."""
_MANY = 40
"""Worlds whose marks need to be fainter."""
_LONGEST_TITLE = 200


def loss(facts: Facts) -> Html | None:
    """Return the loss of all worlds over their steps; None: no world told any."""
    unit = "mean loss since the report before"
    return _learning(facts, facts.losses, "loss", "Loss", unit, charts.short)


def accuracy(facts: Facts) -> Html | None:
    """Return the bucket accuracy of all worlds; None: it was not measured."""
    unit = "share of held-out rows whose likeliest bucket holds a label"
    title, words = "Bucket accuracy", charts.whole_percent
    return _learning(facts, facts.accuracies, "accuracy", title, unit, words, dotted=True)


def timeline(facts: Facts) -> Html | None:
    """Return worlds by attempts over time, coloured by how they ended; None: there are none."""
    spans, worlds = facts.when.spans, facts.config.worlds
    if not spans:
        return None
    x = charts.clock(facts.when.seconds, _time_unit(facts))
    y = _worlds_axis(worlds)
    counts = Counter(span.cause for span in spans)
    met = [cause for cause in CAUSES if counts[cause]]
    pauses = [
        charts.path(charts.line([(at, y.low), (at, y.high)], x, y), "pause", _pause(seconds))
        for at, seconds in facts.when.pauses
    ]
    return charts.figure(
        "timeline",
        "Attempts",
        f"{plural(len(spans), 'attempt')} at {plural(worlds, 'world')} over"
        f" {duration(facts.when.seconds)}: "
        + ", ".join(f"{counts[cause]} {_ending(cause)}" for cause in met),
        [*_bars(spans, x, y), *pauses],
        x,
        y,
        height=round(min(worlds * 18, max(320, worlds * 14), 800)) + 8,
        labels=_letters(spans, x, y) if worlds <= _TALL_ROWS else (),
        legend=[
            Key(
                mark=charts.swatch(_kind(cause), CAUSES[cause]),
                words=f"{_ending(cause)} {counts[cause]:,}",
            )
            for cause in met
        ],
        note=_timeline_note(facts),
    )


def throughput(facts: Facts) -> Html | None:
    """Return the rows a second of all worlds together over time; None: no world told any."""
    steps = facts.throughput
    most = max((value for *_, value in steps), default=0.0)
    if not most > 0:
        return None
    x = charts.clock(facts.when.seconds, _time_unit(facts))
    y = charts.linear(0, most, "rows a second, all worlds together", most=5)
    return charts.figure(
        "throughput",
        "Throughput",
        f"rows a second of all worlds together over {duration(facts.when.seconds)},"
        f" at most {charts.short(most)}",
        [charts.path(charts.area(steps, x, y), "fill")],
        x,
        y,
        height=180,
    )


def rates(facts: Facts) -> Html | None:
    """Return each world's own pace; None: no world told any."""
    if not facts.rates:
        return None
    worlds = sorted(facts.rates)
    middle = median(facts.rates.values())
    x = charts.linear(0, facts.config.worlds - 1, "world", whole=True, tight=True)
    y = charts.linear(0, max(facts.rates.values()), "rows a second", most=5)
    marks = [charts.path(charts.line([(x.low, middle), (x.high, middle)], x, y), "middle")]
    kind = "dot small" if len(worlds) > _MANY else "dot"
    for world in worlds:
        told = f"world {world}: {facts.rates[world]:,.0f} rows a second"
        marks.append(charts.path(charts.dots([(world, facts.rates[world])], x, y), kind, told))
    return charts.figure(
        "rates",
        "Pace of each world",
        f"rows a second of {plural(len(worlds), 'world')}: {_range(list(facts.rates.values()))},"
        f" median {charts.short(middle)}",
        marks,
        x,
        y,
        height=180,
        legend=[Key(mark=charts.stroke("middle"), words=f"median {charts.short(middle)}")],
        note="The median over all that a world told.",
    )


def loads(facts: Facts) -> Html:
    """Return how many buckets of world 0 hold how many classes."""
    found = facts.loads.buckets
    bars = _binned(found)
    low, high = bars[0][0], bars[-1][1]
    # Two loads alone would be two walls.
    room = max(0, _FEWEST_LOADS - (high - low + 1)) // 2
    low, high = max(0, low - room), high + room
    x = charts.linear(low - 0.5, high + 0.5, "classes in a bucket", whole=True, tight=True)
    most = max(count for *_, count in bars)
    y = charts.linear(0, most, "buckets", whole=True, most=5)
    gap = 0.06 * (bars[0][1] - bars[0][0] + 1)
    marks = []
    for first, last, count in bars:
        classes = f"{first:,}" if first == last else f"{first:,} to {last:,}"
        edges = first - 0.5 + gap, last + 0.5 - gap
        told = f"{plural(count, 'bucket')} of {classes} classes"
        marks.append(charts.path(charts.box(*edges, 0, count, x, y), "fill", told))
    return charts.figure(
        "loads",
        "Bucket loads",
        f"{facts.config.partition.buckets:,} buckets by the number of classes in them, from"
        f" {min(found):,} to {max(found):,}",
        marks,
        x,
        y,
        height=180,
        note=_loads_note(facts),
    )


def metric(measured: Measured, name: str) -> Html:
    """Return a metric against the number of worlds, by combiner."""
    curves = {
        combiner: sorted(
            (worlds, metrics[name])
            for (one, worlds), metrics in measured.metrics.items()
            if one == combiner and name in metrics
        )
        for combiner in measured.combiners
    }
    curves = {combiner: points for combiner, points in curves.items() if points}
    points = [point for line in curves.values() for point in line]
    values = [value for _, value in points]
    x = charts.doubling(sorted({worlds for worlds, _ in points}), "worlds R")
    y = charts.linear(min(values), max(values), "", words=charts.whole_percent, most=5)
    marks = []
    for combiner, line in curves.items():
        kind = f"series k-{combiner}"
        marks.append(charts.path(charts.line([(log2(w), v) for w, v in line], x, y), kind))
        for worlds, value in line:
            told = f"{name} {charts.percent(value)}, {combiner}, {plural(worlds, 'world')}"
            dot = charts.dots([(log2(worlds), value)], x, y)
            marks.append(charts.path(dot, f"dot {kind}", told))
    ends = {combiner: line[-1] for combiner, line in curves.items()}
    ends = dict(sorted(ends.items(), key=lambda item: -item[1][1]))
    return charts.figure(
        "metric-" + name.lower().replace("@", "-"),
        name,
        f"{name} against the number of worlds: "
        + ", ".join(
            f"{combiner} {charts.percent(value)} at {worlds}"
            for combiner, (worlds, value) in ends.items()
        ),
        marks,
        x,
        y,
        height=220,
        legend=[
            Key(mark=charts.stroke(f"series k-{name}"), words=f"{name} {charts.percent(value)}")
            for name, (_, value) in ends.items()
        ],
    )


def _learning(
    facts: Facts,
    learning: Learning,
    name: str,
    title: str,
    unit: str,
    words: Callable[[float], str],
    *,
    dotted: bool = False,
) -> Html | None:
    if not learning.worlds:
        return None
    values = [value for curve in learning.worlds for value in curve.values.tolist()]
    last = max(float(curve.steps[-1]) for curve in learning.worlds)
    x = charts.linear(0, last, "step", whole=True, tight=True)
    y = charts.linear(0 if dotted else min(values), max(values), unit, words=words, most=5)
    failed = set(facts.worlds("failed"))
    faint = "world faint" if len(learning.worlds) > _MANY else "world"
    marks = [
        _world_line(curve, "world failed" if curve.world in failed else faint, x, y, dotted)
        for curve in learning.worlds
    ]
    middle = learning.median
    if middle is not None:
        marks.append(charts.path(charts.line(_points(middle), x, y), "median"))
    ended = [curve for curve in learning.worlds if curve.world in failed]
    return charts.figure(
        name,
        title,
        f"{title} of {plural(len(learning.worlds), 'world')} over {charts.short(last)} steps"
        + (f", median {words(float(middle.values[-1]))} at the end" if middle else ""),
        marks,
        x,
        y,
        labels=[_cross(curve, x, y) for curve in ended],
        legend=_learning_keys(learning, bool(ended)),
    )


def _world_line(curve: Curve, kind: str, x: Axis, y: Axis, dotted: bool) -> Html:
    points = _points(curve)
    d = charts.line(points, x, y) + (charts.dots(points, x, y) if dotted or len(points) < 2 else "")
    return charts.path(d, kind, f"world {curve.world}" + (", failed" if "failed" in kind else ""))


def _cross(curve: Curve, x: Axis, y: Axis) -> Html:
    place = x.share(float(curve.steps[-1])), y.share(float(curve.values[-1]))
    return charts.label(*place, "×", "cross", f"world {curve.world} failed")


def _learning_keys(learning: Learning, failures: bool) -> list[Key]:
    keys = [Key(mark=charts.stroke("world"), words="a world")]
    if learning.median is not None:
        keys.append(Key(mark=charts.stroke("median"), words="median, while half of them go on"))
    if failures:
        keys.append(Key(mark=charts.stroke("world failed"), words="a world that failed, ends at ×"))
    return keys


def _points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))


def _worlds_axis(worlds: int) -> Axis:
    """Return the axis of worlds, the first at the top: of their negative numbers."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200) if s * 24 >= worlds)
    ticks = tuple((-i - 0.5, str(i)) for i in range(0, worlds, step))
    return Axis(low=-worlds, high=0, unit="world", ticks=ticks)


def _bars(spans: Sequence[Span], x: Axis, y: Axis) -> list[Html]:
    drawn = [
        (span, charts.box(span.began, span.ended, -span.world - 0.9, -span.world - 0.1, x, y))
        for span in spans
    ]
    if len(drawn) <= _MOST_TITLES:
        return [charts.path(d, f"bar {_kind(span.cause)}", _title(span)) for span, d in drawn]
    whole = {
        cause: "".join(d for span, d in drawn if span.cause == cause)
        for cause in dict.fromkeys(span.cause for span, _ in drawn)
    }
    return [charts.path(d, f"bar {_kind(cause)}") for cause, d in whole.items()]


def _letters(spans: Sequence[Span], x: Axis, y: Axis) -> list[Html]:
    return [
        charts.label(
            x.share(span.ended),
            y.share(-span.world - 0.5),
            CAUSES[span.cause],
            "letter",
            _title(span),
        )
        for span in spans
        if CAUSES[span.cause] and x.share(span.ended) - x.share(span.began) >= _LETTER
    ]


def _title(span: Span) -> str:
    message = "" if span.cause == "done" else span.attempt.message
    where = f" on {span.attempt.node}" if span.attempt.node else ""
    told = (
        f"world {span.world}, attempt {span.attempt.name}: {_ending(span.cause)},"
        f" {duration(span.seconds)}{where}"
    )
    return (f"{told}: {message}" if message else told)[:_LONGEST_TITLE]


def _ending(cause: str) -> str:
    return "preempted" if cause == "preemption" else cause


def _kind(cause: str) -> str:
    return f"c-{cause.replace(' ', '-')}"


def _pause(seconds: float) -> str:
    return f"nothing ran for {duration(seconds)}"


def _time_unit(facts: Facts) -> str:
    cut = ", pauses left out" if facts.when.pauses else ""
    return f"time since the first attempt{cut}"


def _timeline_note(facts: Facts) -> str:
    parts = []
    if facts.when.pauses:
        longest = max(seconds for _, seconds in facts.when.pauses)
        count = plural(len(facts.when.pauses), "pause")
        parts.append(
            f"{count} in which nothing ran, the longest of {duration(longest)}, left out at dashed"
            " lines."
        )
    if facts.when.undated:
        parts.append(f"{plural(facts.when.undated, 'attempt')} without a readable time not drawn.")
    return " ".join(parts)


def _loads_note(facts: Facts) -> str:
    config, found = facts.config, facts.loads
    kind = config.partition.kind
    if found.counted < config.data.classes:
        return (
            f"World 0, by {kind}; counted over the first {found.counted:,} of"
            f" {config.data.classes:,} classes."
        )
    if kind == "permutation":
        return "The same in every world: a permutation's differ by one at most."
    return f"World 0, by {kind}: {config.data.classes / config.partition.buckets:.1f} on average."


def _binned(loads: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """Return the loads in at most `_MOST_BARS` bars: from, to, and buckets."""
    low, high = min(loads), max(loads)
    width = -(-(high - low + 1) // _MOST_BARS)
    sums: Counter[int] = Counter()
    for load, count in loads.items():
        sums[(load - low) // width] += count
    return [
        (low + i * width, low + (i + 1) * width - 1, sums[i])
        for i in range((high - low) // width + 1)
    ]


def _range(values: Sequence[float]) -> str:
    return f"{charts.short(min(values))} to {charts.short(max(values))}"
