"""What `manyworlds plan` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from orchestrator.cli.reports import plain_table
from orchestrator.evaluations import KeptEvaluation
from orchestrator.plan import Bounds, Data, Estimate, Gain, Pace, Plan, Size
from orchestrator.words import duration, plural, size

_NO_MORE = 0.001
"""Gain from which on more worlds are worth a word."""


def told(
    plan: Plan, data: Data, *, given: Sequence[str], target_hours: float | None
) -> list[RenderableType]:
    """Return a plan for people."""
    config = plan.config
    parts: list[RenderableType] = [
        "\n".join(_job(plan, data, given)),
        _bounds(plan),
    ]
    aim = "" if target_hours is None else f", to end within {target_hours:g} h"
    title = f"all {plural(config.worlds, 'world')}{aim}, by type of machine"
    if plan.estimates:
        parts.append(_machines(title, plan.estimates))
    if target_hours is not None and (slow := _too_slow(plan, target_hours)):
        parts.append(slow)
    parts.append(_machines(_whole_title(plan.whole), plan.whole_estimates))
    parts.append("\n".join(_notes(plan)))
    return parts


def growth(
    run: str,
    found: KeptEvaluation | None,
    continued: Sequence[Gain],
    hours: float | None,
    worlds: int,
) -> list[RenderableType]:
    """Return what more worlds than it has would bring a run, for people."""
    lines = [] if hours is None else [f"a world took {duration(3600 * hours)} on average"]
    if found is None:
        return ["\n".join([*lines, f"{run}: nobody measured its ensemble yet"])]
    table = plain_table(f"{found.data}, {plural(found.rows, 'row')}, in %")
    counts = sorted({worlds for _, worlds in found.metrics})
    last = measured_worlds(found)
    for heading in ("combiner", "metric", *(f"R={count}" for count in counts), f"R={2 * last}"):
        left = heading in ("combiner", "metric")
        table.add_column(heading, justify="left" if left else "right")
    for gain in continued:
        points = [f"{100 * gain.curve[count]:.2f}" for count in counts]
        more = "" if gain.doubled is None else f"about {100 * gain.doubled:.2f}"
        table.add_row(gain.combiner, gain.metric, *points, more)
    if last < worlds:
        return [table, f"measured with {last} of its {worlds} worlds; measure them all first"]
    return [table, "\n".join([*lines, *_verdict(continued, hours, last)])]


def measured_worlds(found: KeptEvaluation) -> int:
    """Return how many worlds the ensemble had that was measured."""
    return max(worlds for _, worlds in found.metrics)


def _verdict(continued: Sequence[Gain], hours: float | None, last: int) -> list[str]:
    more = [gain.doubled - gain.curve[last] for gain in continued if gain.doubled]
    if not more:
        return [
            "too few numbers of worlds to continue the curve: it takes R, R/2 and R/4; grow the run"
        ]
    cost = "" if hours is None else f", for {duration(3600 * hours * last)} of worlds"
    if max(more) < _NO_MORE:
        return [f"{2 * last} worlds would bring next to nothing{cost}"]
    return [f"{2 * last} worlds would bring up to {100 * max(more):.1f} points{cost}"]


def _job(plan: Plan, data: Data, given: Sequence[str]) -> list[str]:
    config, chosen, one = plan.config, plan.chosen, plan.size
    classes = config.data.classes
    stored = "" if data.stored is None else f", {size(data.stored)}"
    by = {key: "as asked" if key in given else "chosen" for key in ("worlds", "partition.buckets")}
    rows = [
        ("classes", f"K = {classes:,}"),
        ("rows", f"{data.rows:,} of about {data.row.features:.0f} features each{stored}"),
        (
            "buckets",
            f"B = {chosen.buckets:,} ({by['partition.buckets']}),"
            f" {classes / chosen.buckets:,.1f} classes in each",
        ),
        (
            "worlds",
            f"R = {chosen.worlds} ({by['worlds']}); the bounds take {chosen.least}",
        ),
        ("confusion", f"{chosen.confusion:.1g}: the chance that any two classes share all buckets"),
        (
            "deviation",
            f"{chosen.deviation:.2g}: of a class's estimated probability, by hashing alone, at"
            " most",
        ),
        ("a world", _world(one)),
        ("ensemble", f"{size(one.ensemble_bytes)} ({one.parameters * one.worlds:,} parameters)"),
    ]
    rows += [("pace here", _pace(pace, config.training.batch_size)) for pace in plan.paces]
    return [f"{name:11}{text}" for name, text in rows]


def _pace(pace: Pace, batch_size: int) -> str:
    beside = "one world" if pace.at_once == 1 else f"{pace.at_once} worlds side by side"
    return (
        f"{beside}: {1000 * pace.step_seconds:,.1f} ms a step of {batch_size:,} rows, started in"
        f" {duration(pace.start_seconds)}, written in {duration(pace.write_seconds)}"
    )


def _world(one: Size) -> str:
    memory = one.memory
    where = (
        f"{size(memory.device)} of its GPU, {size(memory.host)} beside it"
        if one.on_gpu
        else f"{size(memory.total)} of memory"
    )
    return f"{one.parameters:,} parameters, {one.steps:,} steps, {where} at its peak"


def _bounds(plan: Plan) -> Table:
    result = plain_table("worlds that keep both bounds, by number of buckets")
    for heading in ("B", "R for confusion", "R for deviation", "R", "R x B"):
        result.add_column(heading, justify="right")
    for bound in plan.offered:
        mark = " *" if bound.buckets == plan.chosen.buckets else ""
        result.add_row(f"{bound.buckets:,}{mark}", *_bound_cells(bound))
    return result


def _bound_cells(bound: Bounds) -> list[str]:
    return [
        str(bound.least_for_confusion),
        str(bound.least_for_deviation),
        str(bound.least),
        f"{bound.least * bound.buckets:,}",
    ]


def _machines(title: str, estimates: Sequence[Estimate]) -> Table:
    result = plain_table(title)
    for heading in ("machine", "number", "at once", "a world", "all", "on demand", "spot", "by"):
        result.add_column(heading, justify="left" if heading in ("machine", "by") else "right")
    for item in estimates:
        result.add_row(*_machine_cells(item))
    return result


def _machine_cells(item: Estimate) -> list[str]:
    if item.trouble:
        return [item.machine, "", "", "", "does not fit", "", "", item.trouble]
    return [
        item.machine,
        str(item.machines),
        str(item.at_once),
        duration(3600 * item.world_hours),
        duration(3600 * item.hours),
        f"${item.on_demand:,.2f}" if item.on_demand else "",
        "" if item.spot is None else f"${item.spot:,.2f}",
        item.source,
    ]


def _too_slow(plan: Plan, target_hours: float) -> str:
    told = {item.machine for item in plan.estimates}
    missing = [item.machine for item in plan.whole_estimates if item.machine not in told]
    # There is one of this machine, whatever it takes.
    late = [
        f"{item.machine} takes longer"
        for item in plan.estimates
        if item.source == "measured" and item.hours > target_hours
    ]
    slow = [f"one world alone takes longer on {', '.join(missing)}"] if missing else []
    return "; ".join([*late, *slow])


def _whole_title(whole: Size) -> str:
    return (
        f"instead, one network with all {plural(whole.parameters, 'parameter')},"
        f" {size(whole.memory.device)} in training"
    )


def _notes(plan: Plan) -> list[str]:
    return [
        "roofline: half the peak of matrix products and 70 % of the memory's, nothing measured;"
        " prices from conf/machines.yaml, or your own: --machines FILE.",
        *(
            []
            if plan.paces
            else ["Nothing was measured here: with data.train=, the pace of this machine is."]
        ),
    ]
