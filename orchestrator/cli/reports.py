"""What the verbs print, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

from orchestrator.api import RunStatus, RunSummary
from orchestrator.config import ClusterConfig, RunConfig
from orchestrator.plan import Plan
from orchestrator.state import Attempt, WorldState
from orchestrator.words import duration, listed, plural, size
from workers.config import DataConfig

if TYPE_CHECKING:
    from orchestrator.ensemble.ensemble import Prediction
    from orchestrator.ensemble.evaluation import Evaluation

_GPUS: dict[float | str, str] = {
    "auto": "a GPU each where the cluster has GPUs, else its CPUs",
    0.0: "on CPUs",
    1.0: "a GPU each",
}


def dry_run(config: RunConfig, plan: Plan) -> list[str]:
    """Return what a run would take, one aspect a line."""
    classes, buckets = config.data.classes, config.partition.buckets
    total = plan.parameters * plan.worlds
    rows = [
        ("run", config.run),
        ("worlds", f"{plan.worlds}, {placement(config.cluster)}"),
        ("classes", f"{classes:,} in {buckets:,} buckets, {classes / buckets:.1f} a bucket"),
        ("parameters", f"{plan.parameters:,} a world, {total:,} in all"),
        (
            "memory",
            f"about {size(plan.memory)} a world on its device,"
            f" {size(plan.host_memory)} beside it for rows",
        ),
        ("data", f"{plural(plan.rows, 'row')}, {size(plan.data_bytes)}"),
        (
            "read",
            f"at most {size(plan.read)}: {plural(config.training.epochs, 'epoch')}"
            f" of {plural(plan.worlds, 'world')}",
        ),
        ("steps", f"{plan.steps:,} a world, of {config.training.batch_size:,} rows"),
        ("ensemble", f"about {size(plan.ensemble_bytes)}"),
    ]
    return [f"{name:11}{text}" for name, text in rows]


def placement(cluster: ClusterConfig) -> str:
    """Return where each world runs, in words."""
    if cluster.address == "none":
        return "one after the other in this process"
    gpus = _GPUS.get(cluster.gpus_per_world) or f"{cluster.gpus_per_world} GPU each"
    cpus = "" if cluster.cpus_per_world == "auto" else f", {cluster.cpus_per_world} CPUs each"
    many = cluster.max_parallel
    at_once = f"{many} at a time at most" if many else "as many at a time as fit"
    return f"{gpus}{cpus}, {at_once}, on Ray at address {cluster.address}"


def attempts(states: Sequence[WorldState]) -> Table:
    """Return a table of all attempts, by world."""
    result = _table("attempts")
    for heading in ("world", "attempt", "began", "took", "checkpoint", "end", "on", "why"):
        justify: Literal["left", "right"] = (
            "right" if heading in ("world", "took", "checkpoint") else "left"
        )
        result.add_column(heading, justify=justify, overflow="fold")
    for state in states:
        for attempt in state.attempts:
            result.add_row(*_attempt_cells(state, attempt))
    return result


def outcome(summary: RunSummary, found: RunStatus) -> list[str]:
    """Return how a run was left, one aspect a line."""
    done = [state.index for state in found.states if state.status == "done"]
    lines = [f"{len(done)} of {plural(len(found.states), 'world')} done"]
    lines += [f"world {world} failed: {why}" for world, why in sorted(summary.failed.items())]
    if summary.pending:
        lines.append(
            f"not done: {plural(len(summary.pending), 'world')} ({listed(summary.pending)})"
        )
    merged = f"merged into {summary.ensemble}" if summary.ensemble else "not merged"
    return [*lines, merged]


def next_of_run(found: RunStatus, *, merged: bool | None = None) -> list[list[str]]:
    """Return the commands that go on from where a run stands.

    Args:
        found: the run.
        merged: whether it has an ensemble; None: look at its worlds.
    """
    run = found.config.run
    done = sum(state.status == "done" for state in found.states)
    if done == len(found.states):
        return questions(run, found.config.data) if merged in (None, True) else [["merge", run]]
    commands = [["resume", run]]
    if merged is not None:
        commands.insert(0, ["status", run])
    if done:
        commands.append(["merge", run, "--min-worlds", str(done)])
    return commands


def questions(uri: str, data: DataConfig) -> list[list[str]]:
    """Return the commands that ask the ensemble at `uri`."""
    asked = []
    if data.columns(labels=False) == list(data.text[:1]):
        asked.append(["predict", uri, "a query in words"])
    held_out = data.validation
    asked.append(["evaluate", uri, f"data={held_out}"] if held_out else ["evaluate", "--help"])
    return asked


def evaluation(found: Evaluation) -> list[Table]:
    """Return the metrics of all worlds together, and the curve over the number of worlds."""
    worlds = max(count for _, count in found.metrics)
    tables = []
    for name in dict.fromkeys(name for name, _ in found.metrics):
        title = f"combiner {name}, {plural(worlds, 'world')}, {plural(found.rows, 'row')}, in %"
        tables.append(_by_k(title, found.metrics[name, worlds]))
    return [*tables, _curve(found)]


def answers(queries: Sequence[str], prediction: Prediction) -> list[dict[str, Any]]:
    """Return one mapping a query: its text, and its classes with their scores, best first."""
    found = []
    for i, query in enumerate(queries):
        names = prediction.names[i] if prediction.names else None
        classes = [
            {"class": int(id_), **({"name": names[j]} if names else {}), "score": float(score)}
            for j, (id_, score) in enumerate(
                zip(prediction.ids[i], prediction.scores[i], strict=True)
            )
            if id_ >= 0
        ]
        found.append({"query": query, "classes": classes})
    return found


def answer_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return one answer for people."""
    lines = [
        f"  {item['score']:10.4f}  {item['class']:>10}  {item.get('name', '')}".rstrip()
        for item in answer["classes"]
    ]
    return [answer["query"], f"  {'score':>10}  {'class':>10}", *lines, ""]


def _attempt_cells(state: WorldState, attempt: Attempt) -> list[str | Text]:
    began = datetime.fromisoformat(attempt.started_at)
    ended = datetime.fromisoformat(attempt.ended_at) if attempt.ended_at else None
    end = (attempt.cause or "runs").replace("_", " ")
    return [
        str(state.index),
        attempt.name + (" *" if attempt.name == state.winner else ""),
        f"{began:%Y-%m-%d %H:%M:%S}",
        duration((ended - began).total_seconds()) if ended else "",
        f"{attempt.steps:,}" if attempt.steps else "",
        end,
        Text(attempt.node or ""),
        Text("" if attempt.cause == "done" else attempt.message),
    ]


def _by_k(title: str, metrics: Mapping[str, float]) -> Table:
    ranked = [name.partition("@") for name in metrics if "@" in name]
    kinds = list(dict.fromkeys(kind for kind, _, _ in ranked))
    ks = sorted({int(k) for _, _, k in ranked})
    result = _table(title)
    for heading in ("", *(f"@{k}" for k in ks)):
        result.add_column(heading, justify="right" if heading else "left")
    for kind in kinds:
        result.add_row(kind, *(_percent(metrics.get(f"{kind}@{k}")) for k in ks))
    return result


def _curve(found: Evaluation) -> Table:
    """Return what fewer worlds would have given: precision at the first k, recall at the others."""
    ks = sorted({int(name.partition("@")[2]) for name in _any(found) if "@" in name})
    shown = [f"P@{ks[0]}", *(f"R@{k}" for k in ks[1:])]
    result = _table("with fewer worlds, in %")
    for heading in ("combiner", "worlds", *shown):
        result.add_column(heading, justify="left" if heading == "combiner" else "right")
    for (name, count), metrics in sorted(found.metrics.items()):
        result.add_row(name, str(count), *(_percent(metrics.get(key)) for key in shown))
    return result


def _any(found: Evaluation) -> Mapping[str, float]:
    return next(iter(found.metrics.values()))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _table(title: str) -> Table:
    # Rich folds a title to the width of its table: no narrower than the title, then.
    width = len(title)
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        min_width=width,
    )
