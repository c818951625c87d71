"""What the verbs print, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

from orchestrator.api import Item, Log, RunStatus, RunSummary
from orchestrator.config import ClusterConfig, RunConfig
from orchestrator.plan import Size
from orchestrator.state import Attempt, WorldState, moment
from orchestrator.words import duration, harmless, listed, percent, plural, size
from workers.config import DataConfig

if TYPE_CHECKING:
    from orchestrator.ensemble.ensemble import Prediction
    from orchestrator.ensemble.evaluation import Evaluation

_GPUS: dict[float | str, str] = {
    "auto": "a GPU each where the cluster has GPUs, else its CPUs",
    0.0: "on CPUs",
    1.0: "a GPU each",
}


def dry_run(config: RunConfig, run: Size) -> list[str]:
    """Return what a run would take, one aspect a line."""
    classes, buckets = config.data.classes, config.partition.buckets
    total = run.parameters * run.worlds
    rows = [
        ("run", config.run),
        ("worlds", f"{run.worlds}, {placement(config.cluster)}"),
        ("classes", f"{classes:,} in {buckets:,} buckets, {classes / buckets:.1f} a bucket"),
        ("parameters", f"{run.parameters:,} a world, {total:,} in all"),
        ("memory", _memory(run)),
        ("data", f"{plural(run.rows, 'row')}, {size(run.stored or 0)}"),
        (
            "read",
            f"at most {size(run.read or 0)}: {plural(config.training.epochs, 'epoch')}"
            f" of {plural(run.worlds, 'world')}",
        ),
        ("steps", f"{run.steps:,} a world, of {config.training.batch_size:,} rows"),
        ("ensemble", f"about {size(run.ensemble_bytes)}"),
    ]
    return [f"{name:11}{text}" for name, text in rows]


def _memory(run: Size) -> str:
    libraries = "half a gigabyte for Python and its libraries"
    if run.on_gpu:
        device, host = size(run.memory.device), size(run.memory.host)
        return f"{device} of its GPU a world, {host} beside it, and {libraries}"
    return f"{size(run.memory.total)} a world, and {libraries}"


def placement(cluster: ClusterConfig) -> str:
    """Return where each world runs, in words."""
    if cluster.address == "none":
        return "one after the other in this process"
    gpus = _GPUS.get(cluster.gpus_per_world) or f"{cluster.gpus_per_world} GPU each"
    cpus = "" if cluster.cpus_per_world == "auto" else f", {cluster.cpus_per_world} CPUs each"
    many = cluster.max_parallel
    at_once = f"{many} at a time at most" if many else "as many at a time as fit"
    where = f", on machines with {', else '.join(cluster.machines)}" if cluster.machines else ""
    return f"{gpus}{cpus}, {at_once}{where}, on Ray at address {cluster.address}"


def status(found: RunStatus) -> dict[str, Any]:
    """Return all that there is to tell about a run, for programs."""
    worlds = [
        {**asdict(view), "winner": state.winner, "attempts": state.to_dict()["attempts"]}
        for view, state in zip(found.views, found.states, strict=True)
    ]
    owner, request = found.driver, found.request
    return {
        "run": found.config.run,
        "driver": owner
        and {"host": owner.host, "pid": owner.pid, "since": owner.since, "alive": found.alive},
        "stop": request and {"host": request.host, "at": request.at},
        "ensemble": found.ensemble,
        "worlds": worlds,
    }


def driving(found: RunStatus) -> list[str]:
    """Return who drives a run, and whether it was asked to stop."""
    run = found.config.run
    if found.driver is None:
        return [f"{run}: nobody drives it"]
    if found.alive is False:
        return [f"{run}: its driver seems to be dead: {found.driver}"]
    asked = [f"it was asked to stop {found.request}"] if found.request else []
    elsewhere = ["whether it is alive, only its own host can tell"] if found.alive is None else []
    return [f"{run}: driven by {found.driver}", *elsewhere, *asked]


def attempts(found: RunStatus) -> Table:
    """Return a table of all attempts, by world; times in UTC."""
    result = plain_table("attempts, times in UTC; * the one whose weights count")
    right = ("world", "took", "checkpoint")
    for heading in ("world", "attempt", "began", "ended", "took", "checkpoint", "end", "on", "why"):
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        result.add_column(heading, justify=justify, overflow="fold")
    for state, view in zip(found.states, found.views, strict=True):
        going = "cut off" if not found.driven else "waits" if view.state == "waiting" else "runs"
        for attempt in state.attempts:
            result.add_row(*_attempt_cells(state, attempt, going))
    return result


def last_lines(logs: Sequence[Log]) -> list[str]:
    """Return the last line of each log."""
    return [
        f"world {log.world:3d}  {log.attempt}  {''.join(log.lines[-1:])}"
        if log.attempt
        else f"world {log.world:3d}  no log yet"
        for log in logs
    ]


def log(found: Log) -> list[str]:
    """Return a log, headed by whose it is."""
    if found.attempt is None:
        return [f"world {found.world}: no log yet"]
    return [f"world {found.world}, attempt {found.attempt}", *found.lines]


def cleaned(items: Sequence[Item], dry_run: bool) -> list[str]:
    """Return what was removed from a run, or would be, and the bytes of all."""
    if not items:
        return ["nothing to remove"]
    freed = f"{size(sum(item.size for item in items))} {'would be' if dry_run else 'were'} freed"
    return [*(f"{size(item.size):>10}  {item.path}: {item.why}" for item in items), freed]


def outcome(summary: RunSummary, found: RunStatus) -> list[str]:
    """Return how a run was left, one aspect a line."""
    done = [state.index for state in found.states if state.status == "done"]
    lines = [f"{len(done)} of {plural(len(found.states), 'world')} done"]
    lines += [f"world {world} failed: {why}" for world, why in sorted(summary.failed.items())]
    if summary.pending:
        lines.append(
            f"not done: {plural(len(summary.pending), 'world')} ({listed(summary.pending)})"
        )
    if summary.stopped:
        lines.append(f"asked to stop {summary.stopped}")
    merged = f"merged into {summary.ensemble}" if summary.ensemble else "not merged"
    return [*lines, merged]


def next_of_run(found: RunStatus, *, merged: bool | None = None) -> list[list[str]]:
    """Return the commands that go on from where a run stands.

    Args:
        found: the run.
        merged: whether it was merged just now; None: nobody tried to.
    """
    run = found.config.run
    if found.driven:
        stop = [] if found.request else [["stop", run]]
        # It waits for a living driver's sign of life, and refuses.
        return [["logs", run], *stop, *([["resume", run]] if found.alive is None else [])]
    done = sum(state.status == "done" for state in found.states)
    if done == len(found.states):
        whole = found.ensemble is not None if merged is None else merged
        return [*questions(run, found.config.data), _tidy(run)] if whole else [["merge", run]]
    return [*_looks(found, told=merged is None), ["resume", run], *_partial(run, done)]


def _tidy(run: str) -> list[str]:
    return ["clean", run, "--dry-run"]


def _looks(found: RunStatus, *, told: bool) -> list[list[str]]:
    """Return the commands that tell more of a run that is not done.

    Args:
        found: the run.
        told: whether its status is on the screen already.
    """
    run = found.config.run
    failed = [state.index for state in found.states if state.status == "failed"]
    looks = [["logs", run, "--world", str(world)] for world in failed[:1]]
    return looks if told else [["status", run, "--attempts"], *looks]


def _partial(run: str, done: int) -> list[list[str]]:
    return [["merge", run, "--min-worlds", str(done)]] if done else []


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


def _attempt_cells(state: WorldState, attempt: Attempt, going: str) -> list[str | Text]:
    began, ended = moment(attempt.started_at), moment(attempt.ended_at)
    took = duration((ended - began).total_seconds()) if began and ended else ""
    return [
        str(state.index),
        attempt.name + (" *" if attempt.name == state.winner else ""),
        _clock(began, attempt.started_at),
        _clock(ended, attempt.ended_at),
        took,
        f"{attempt.steps:,}" if attempt.steps else "",
        (attempt.cause or going).replace("_", " "),
        Text(harmless(attempt.node or "")),
        Text("" if attempt.cause == "done" else harmless(attempt.message)),
    ]


def _clock(found: datetime | None, text: str | None) -> Text:
    return Text(f"{found:%Y-%m-%d %H:%M:%S}" if found else harmless(text or ""))


def _by_k(title: str, metrics: Mapping[str, float]) -> Table:
    ranked = [name.partition("@") for name in metrics if "@" in name]
    kinds = list(dict.fromkeys(kind for kind, _, _ in ranked))
    ks = sorted({int(k) for _, _, k in ranked})
    result = plain_table(title)
    for heading in ("", *(f"@{k}" for k in ks)):
        result.add_column(heading, justify="right" if heading else "left")
    for kind in kinds:
        result.add_row(kind, *(percent(metrics.get(f"{kind}@{k}")) for k in ks))
    return result


def _curve(found: Evaluation) -> Table:
    """Return what fewer worlds would have given: precision at the first k, recall at the others."""
    ks = sorted({int(name.partition("@")[2]) for name in _any(found) if "@" in name})
    shown = [f"P@{ks[0]}", *(f"R@{k}" for k in ks[1:])]
    result = plain_table("with fewer worlds, in %")
    for heading in ("combiner", "worlds", *shown):
        result.add_column(heading, justify="left" if heading == "combiner" else "right")
    for (name, count), metrics in sorted(found.metrics.items()):
        result.add_row(name, str(count), *(percent(metrics.get(key)) for key in shown))
    return result


def _any(found: Evaluation) -> Mapping[str, float]:
    return next(iter(found.metrics.values()))


def plain_table(title: str) -> Table:
    """Return an empty table of the house."""
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
