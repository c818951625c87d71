"""What a report tells in words: tables and lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator import schema
from orchestrator.config import RunConfig
from orchestrator.observers.settings import may_be_secret
from orchestrator.report import charts
from orchestrator.report.facts import Facts, Measured, command
from orchestrator.report.markup import Html, joined, table, tag
from orchestrator.report.times import CUT_OFF, RUNNING, Span
from orchestrator.state import WorldState
from orchestrator.words import duration, percent, plural
from workers.config import DataConfig

SLOWEST = 10
MOST_FAILED = 50
"""Worlds of the table of those that failed."""
MOST_ENDS = 50
_MOST_NODES, _FEW_NODES = 6, 2
"""Machines that are named, of a run and of a world."""
_FEW_WORLDS = 12
"""That a command names one by one."""
_LONGEST = 400
"""Characters of a message."""


def about(facts: Facts) -> Html:
    """Return what is trained on what."""
    config = facts.config
    terms = [
        ("Rows", _rows(facts)),
        ("Columns", _columns(config.data)),
        ("Held out", code(config.data.validation) if config.data.validation else "nothing"),
        ("Classes", f"{config.data.classes:,}, {_names(config.data)}"),
        ("Buckets", _buckets(config)),
        ("Features", _features(config)),
        ("Network", _network(facts)),
        ("Training", _training(facts)),
        ("Machines", _machines(facts)),
        ("Ensemble", code(facts.status.ensemble) if facts.status.ensemble else "not merged yet"),
    ]
    pairs = (joined([tag("dt", name), tag("dd", text)]) for name, text in terms)
    return tag("dl", *(tag("div", pair) for pair in pairs))


def slowest(facts: Facts) -> Html:
    """Return the worlds that took the longest, all attempts together."""
    seconds: dict[int, float] = {}
    for span in facts.when.spans:
        seconds[span.world] = seconds.get(span.world, 0.0) + span.seconds
    worst = sorted(seconds, key=lambda world: (-seconds[world], world))[:SLOWEST]
    rows = [_slow(facts, world, seconds[world]) for world in worst]
    headings = "world, took, attempts, rows/s, step, loss, bucket accuracy, state, on".split(", ")
    more = _more(len(seconds) - len(worst), "world")
    return joined([table(headings, rows, numbers=range(7)), more])


def failed(facts: Facts) -> Html:
    """Return the worlds that failed, why, and how to look closer."""
    run = facts.config.run
    worlds = [state for state in facts.status.states if state.status == "failed"]
    if not worlds:
        return tag("p", "None.")
    rows = [_failed(state) for state in worlds[:MOST_FAILED]]
    headings = ("world", "attempts", "cause", "checkpoint at step", "on", "why")
    numbers = [str(state.index) for state in worlds]
    # Without --worlds, all that are not done.
    only = ["--worlds", ",".join(numbers)] if len(numbers) <= _FEW_WORLDS else []
    look = tag(
        "p",
        "Look closer with ",
        code(command(["logs", run, "--world", numbers[0]])),
        ", try again with ",
        code(command(["resume", run, *only])),
        ".",
    )
    more = _more(len(worlds) - MOST_FAILED, "world")
    return joined([table(headings, rows, numbers=(0, 1, 3)), more, look])


def ends(facts: Facts) -> Html | None:
    """Return the attempts that ended otherwise than well; None: there are none."""
    spans = [span for span in facts.when.spans if span.cause not in (RUNNING, "done")]
    if not spans:
        return None
    rows = [_end(span) for span in sorted(spans, key=lambda one: one.began)[:MOST_ENDS]]
    headings = ("at", "world", "attempt", "cause", "took", "checkpoint at step", "on", "why")
    look = command(["status", facts.config.run, "--attempts"])
    more = _more(len(spans) - MOST_ENDS, "attempt", look)
    counts = Counter(span.cause for span in spans)
    told = ", ".join(f"{cause} {count:,}" for cause, count in counts.most_common())
    return folded(
        f"{plural(len(spans), 'attempt')} did not reach the end: {told}",
        table(headings, rows, numbers=(0, 1, 4, 5)),
        more,
    )


def metrics(measured: Measured) -> Html:
    """Return every metric of all worlds, by combiner."""
    whole = {combiner: measured.whole(combiner) for combiner in measured.combiners}
    names = list(dict.fromkeys(name for _, found in whole.values() for name in found))
    rows = [(name, *(percent(found.get(name)) for _, found in whole.values())) for name in names]
    headings = ["in %", *(f"{one}, R = {worlds}" for one, (worlds, _) in whole.items())]
    return folded(
        f"All {plural(len(names), 'metric')}",
        table(headings, rows, numbers=range(1, len(headings))),
    )


def settings(config: RunConfig) -> Html:
    """Return the settings that differ from the defaults, and all of them."""
    found, usual = schema.values(config), schema.values(RunConfig())
    others = [
        (key, _setting(key, value), _setting(key, usual[key]))
        for key, value in found.items()
        if value != usual[key]
    ]
    every = [(key, _setting(key, value)) for key, value in found.items()]
    return joined(
        [
            table(("setting", "here", "default"), others),
            folded(f"All {plural(len(every), 'setting')}", table(("setting", "here"), every)),
        ]
    )


def code(words: str) -> Html:
    """Return words as code."""
    return tag("code", words)


def message(text: str) -> Html:
    """Return a message with its line breaks, cut where it is very long."""
    short = text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
    return tag("span", short, class_="message")


def folded(summary: str, *content: Html) -> Html:
    """Return what is shown when its heading is clicked."""
    return tag("details", tag("summary", summary), *content)


def _slow(facts: Facts, world: int, seconds: float) -> Sequence[str]:
    view = facts.status.views[world]
    accuracy = view.bucket_accuracy
    return (
        str(world),
        duration(seconds),
        str(view.attempts),
        _number(facts.rates.get(world), "{:,.0f}"),
        _step(view.step, view.steps),
        _number(view.loss, "{:.4g}"),
        "" if accuracy is None else charts.percent(accuracy),
        view.state,
        _some(_nodes(facts.status.states[world]), _FEW_NODES),
    )


def _rows(facts: Facts) -> Html:
    found = []
    if facts.rows is not None:
        found.append(plural(facts.rows, "row"))
    if facts.shards is not None:
        found.append(f"in {plural(facts.shards, 'shard')}")
    told = " ".join(found) or "not looked at yet"
    left_out = max((view.left_out_rows for view in facts.status.views), default=0)
    more = f", up to {left_out:,} of them left out by a world" if left_out else ""
    return joined([told + more, ": ", code(facts.config.data.train)])


def _names(data: DataConfig) -> str:
    return "with names" if data.class_names else "without names"


def _columns(data: DataConfig) -> str:
    inputs = ", ".join(data.columns(labels=False))
    weight = f", weighted by {data.weight}" if data.weight else ""
    return f"{inputs} in, {data.labels} out{weight}"


def _buckets(config: RunConfig) -> str:
    classes, buckets = config.data.classes, config.partition.buckets
    return (
        f"{buckets:,} a world, by {config.partition.kind}: {classes / buckets:.1f} classes in each,"
        f" {plural(config.worlds, 'world')}"
    )


def _features(config: RunConfig) -> str:
    features, data, found = config.features, config.data, []
    if data.text and features.word_ngrams:
        found.append(f"word n-grams to {features.word_ngrams}")
    if data.text and features.char_ngrams[1]:
        low, high = features.char_ngrams
        found.append(f"character n-grams of {low}" + (f" to {high}" if low < high else ""))
    found += [f"column {name}" for name in (data.indices, data.dense) if name]
    dropout = f", {charts.percent(features.dropout)} of them left out" if features.dropout else ""
    return f"{', '.join(found)}, hashed to {features.dimension:,}{dropout}"


def _network(facts: Facts) -> str:
    config = facts.config
    widths = (config.features.dimension, *config.model.hidden, config.partition.buckets)
    active = config.model.active
    share = f", {charts.percent(active)} of wide layers active" if active < 1 else ""
    return (
        f"{' → '.join(f'{width:,}' for width in widths)}, {config.model.activation},"
        f" {config.model.loss}{share}; {charts.short(facts.parameters)} parameters a world"
    )


def _training(facts: Facts) -> str:
    training, rates = facts.config.training, facts.config.optimizer
    steps = max((view.steps or 0 for view in facts.status.views), default=0)
    count = f"{steps:,} steps" if steps else "steps"
    return (
        f"{plural(training.epochs, 'epoch')}, {count} of {training.batch_size:,} rows; Adagrad"
        f" {rates.input_rate:g} for the input, Adam {rates.rate:g} for the rest"
    )


def _machines(facts: Facts) -> str:
    nodes = list(dict.fromkeys(n for state in facts.status.states for n in _nodes(state)))
    return _some(nodes, _MOST_NODES) or "none yet"


def _some(names: Sequence[str], most: int) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def _setting(key: str, value: Any) -> Html | str:
    """Return a value as it stands on the command line."""
    if key == "watch.notify" and may_be_secret(value):
        return "not shown"
    return code(schema.to_override(key, value).partition("=")[2])


def _nodes(state: WorldState) -> list[str]:
    return list(dict.fromkeys(attempt.node for attempt in state.attempts if attempt.node))


def _failed(state: WorldState) -> Sequence[str | Html]:
    begun = str(state.index), str(len(state.attempts))
    if not state.attempts:
        return (*begun, "", "", "", "")
    last = state.attempts[-1]
    cause = (last.cause or "").replace("_", " ")
    return (*begun, cause, f"{last.steps:,}", last.node or "", message(last.message))


def _end(span: Span) -> Sequence[str | Html]:
    return (
        duration(span.began),
        str(span.world),
        span.attempt.name,
        span.cause,
        duration(span.seconds),
        # Nobody has written down yet how far it was.
        "" if span.cause == CUT_OFF else f"{span.attempt.steps:,}",
        span.attempt.node or "",
        message(span.attempt.message),
    )


def _more(count: int, noun: str, look: str = "") -> Html:
    if count <= 0:
        return Html()
    where = [": ", code(look)] if look else ["."]
    return tag("p", f"And {count:,} more {noun}{'' if count == 1 else 's'}", *where, class_="more")


def _step(step: int | None, steps: int | None) -> str:
    return "" if step is None or steps is None else f"{step:,} of {steps:,}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
