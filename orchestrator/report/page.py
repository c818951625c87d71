"""The report of a run as one page."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import UTC
from importlib import resources
from statistics import median
from string import Template

from orchestrator.observers.settings import may_be_secret
from orchestrator.report import charts, figures, tables
from orchestrator.report.facts import Facts, Measured, command
from orchestrator.report.markup import Html, joined, tag
from orchestrator.state import moment
from orchestrator.words import duration, listed, plural

_MOST_DAMAGE = 10
_LONGEST_LIST = 80
"""Characters of a list of worlds."""
_ORDER = ("running", "waiting", "failed", "pending")


def page(facts: Facts) -> str:
    """Return the whole page; it asks for nothing beside itself, and runs no script."""
    name = facts.config.run.rstrip("/").rpartition("/")[2] or facts.config.run
    parts = [
        header(facts, name),
        _section("What is trained", tables.about(facts)),
        *_damage(facts),
        _learning(facts),
        _time(facts),
        _accuracy(facts),
        _section("Slowest worlds", tables.slowest(facts)),
        _section("Failed worlds", tables.failed(facts)),
        _section("Settings", tables.settings(facts.config)),
        _again(facts),
    ]
    return Template(_beside("page.html")).substitute(
        title=joined([name, " · manyworlds"]), style=_beside("style.css"), body=joined(parts, "\n")
    )


def header(facts: Facts, name: str) -> Html:
    """Return the head of the page: how far the run is, in a sentence and in figures."""
    made = facts.made_at.astimezone(UTC)
    return tag(
        "header",
        tag("p", "manyworlds run", class_="kind"),
        tag("h1", name),
        tag("p", tables.code(facts.config.run), class_="where"),
        tag(
            "p",
            tag("strong", _state(facts)),
            f" · as of {made:%Y-%m-%d %H:%M} UTC",
            class_="state",
        ),
        tag("ul", *(_key(*one) for one in _figures(facts)), class_="figures"),
    )


def _key(value: str, name: str, more: str) -> Html:
    return tag(
        "li",
        tag("span", name, class_="name"),
        tag("span", value, class_="value"),
        tag("span", more, class_="more"),
    )


def _state(facts: Facts) -> str:
    status, worlds = facts.status, facts.config.worlds
    if len(facts.worlds("done")) == worlds:
        return "Done" if status.ensemble else "Done, not merged yet"
    if status.driven:
        asked = ", asked to stop" if status.request else ""
        sure = "" if status.alive else "; whether it is alive, only its own host can tell"
        return f"Training, driven by {status.driver}{asked}{sure}"
    if not facts.when.spans:
        return "Not begun"
    return "Unfinished, and nobody drives it"


def _figures(facts: Facts) -> list[tuple[str, str, str]]:
    config, when = facts.config, facts.when
    states = Counter(view.state for view in facts.status.views)
    others = [f"{states[state]} {state}" for state in _ORDER if states[state]]
    each = config.data.classes / config.partition.buckets
    rows = "–" if facts.rows is None else charts.short(facts.rows)
    epochs = plural(config.training.epochs, "epoch")
    return [
        (f"{states['done']:,} / {config.worlds:,}", "worlds done", ", ".join(others) or "all"),
        (
            charts.short(config.data.classes),
            "classes",
            f"in {charts.short(config.partition.buckets)} buckets, {each:.1f} each",
        ),
        (rows, "training rows", epochs if facts.rows is not None else "not looked at yet"),
        (
            duration(when.seconds) if when.spans else "–",
            "time",
            f"{duration(when.work)} of worlds" if when.spans else "no attempt yet",
        ),
        _best(facts),
    ]


def _best(facts: Facts) -> tuple[str, str, str]:
    """Return the best that was measured: of the ensemble, else of the worlds, else of the loss."""
    if facts.measured and facts.measured.shown:
        combiner, worlds = facts.measured.best
        name = facts.measured.shown[0]
        found = facts.measured.metrics[combiner, worlds].get(name, 0.0)
        return charts.percent(found), name, f"{combiner}, {plural(worlds, 'world')}"
    views = facts.status.views
    accuracies = [v.bucket_accuracy for v in views if v.bucket_accuracy is not None]
    if accuracies:
        told = f"median of {plural(len(accuracies), 'world')}"
        return charts.percent(median(accuracies)), "bucket accuracy", told
    losses = [view.loss for view in views if view.loss is not None]
    if losses:
        return f"{median(losses):.4g}", "loss", f"median of {plural(len(losses), 'world')}"
    return "–", "accuracy", "not measured yet"


def _learning(facts: Facts) -> Html:
    drawn = [one for one in (figures.loss(facts), figures.accuracy(facts)) if one is not None]
    if not drawn:
        return _section("Learning curves", tag("p", "No world has told anything yet."))
    notes = []
    if not facts.accuracies.worlds:
        why = (
            "no world has come to the end of an epoch yet"
            if facts.config.data.validation
            else "that needs held-out rows, data.validation"
        )
        notes.append(tag("p", f"Bucket accuracy is not measured: {why}."))
    return _section("Learning curves", _side_by_side(drawn), *notes)


def _time(facts: Facts) -> Html:
    line = figures.timeline(facts)
    if line is None:
        return _section("Worlds and time", tag("p", "No attempt yet."), figures.loads(facts))
    below = [figures.throughput(facts), tables.ends(facts)]
    beside = [figures.rates(facts), figures.loads(facts)]
    return _section(
        "Worlds and time",
        line,
        *(one for one in below if one is not None),
        _side_by_side([one for one in beside if one is not None]),
    )


def _accuracy(facts: Facts) -> Html:
    measured = facts.measured
    heading = "Accuracy against the number of worlds"
    if measured is None or not measured.shown:
        return _section(heading, _unmeasured(facts))
    return _section(
        heading,
        _measured_on(measured),
        _side_by_side([figures.metric(measured, name) for name in measured.shown]),
        tables.metrics(measured),
    )


def _measured_on(measured: Measured) -> Html:
    newest = measured.newest
    told = f"{plural(newest.rows, 'row')} of "
    served = "" if measured.served else " of an earlier ensemble, which is served no more"
    return tag("p", told, tables.code(newest.data), f", measured {_day(newest.at)}{served}.")


def _unmeasured(facts: Facts) -> Html:
    run, held_out = facts.config.run, facts.config.data.validation
    done = len(facts.worlds("done"))
    words = ["evaluate", run, f"data={held_out or 'HELD-OUT-ROWS'}"]
    if facts.status.ensemble:
        return tag("p", "Not measured yet: ", tables.code(command(words)))
    if not done:
        return tag("p", "Not measured yet: no world is done.")
    merge = ["merge", run, *([] if done == facts.config.worlds else ["--min-worlds", str(done)])]
    return tag(
        "p",
        "Not measured yet: ",
        tables.code(command(merge)),
        " and ",
        tables.code(command(words)),
    )


def _again(facts: Facts) -> Html:
    verb, *words = facts.command
    lines = " \\\n    ".join([command([verb]), *map(shlex.quote, words)])
    todo = [view.world for view in facts.status.views if view.state != "done"]
    which = listed(todo)
    named = f" ({which})" if len(which) <= _LONGEST_LIST else ""
    goes_on = (
        f"As it stands it goes on with {plural(len(todo), 'world')}{named}"
        if todo
        else "As it stands it trains nothing again"
    )
    hidden = may_be_secret(facts.config.watch.notify)
    left_out = " watch.notify is left out, which may hold credentials." if hidden else ""
    return _section(
        "The command",
        tag("pre", tag("code", lines), tabindex="0"),
        tag("p", f"{goes_on}; with another run= it trains all anew.{left_out}"),
    )


def _damage(facts: Facts) -> list[Html]:
    if not facts.damage:
        return []
    shown = [tag("li", tables.message(line)) for line in facts.damage[:_MOST_DAMAGE]]
    more = len(facts.damage) - _MOST_DAMAGE
    if more > 0:
        shown.append(tag("li", f"and {more:,} more"))
    return [_section("What could not be read", tag("ul", *shown, class_="damage"))]


def _section(heading: str, *content: Html) -> Html:
    name = heading.lower().replace(" ", "-")
    return tag("section", tag("h2", heading), *content, id=name)


def _side_by_side(drawn: Sequence[Html]) -> Html:
    return tag("div", *drawn, class_="charts")


def _day(text: str) -> str:
    found = moment(text)
    return f"{found:%Y-%m-%d %H:%M} UTC" if found else text


def _beside(name: str) -> str:
    return (resources.files("orchestrator.report") / name).read_text(encoding="utf-8")
