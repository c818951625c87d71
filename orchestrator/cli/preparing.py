"""`manyworlds prepare`: from raw files to shards."""

from __future__ import annotations

import sys

from rich.progress import Progress, TaskID

from orchestrator.cli.arguments import Arguments
from orchestrator.cli.output import following, show
from orchestrator.config import RunConfig
from orchestrator.plan import buckets_for
from orchestrator.prepare import PrepareConfig, Summary
from orchestrator.prepare import prepare as make
from orchestrator.schema import from_overrides, made, to_override
from orchestrator.words import plural

_CLUSTER, _SEPARATOR = "cluster=", "label_separator="
_WIDTH = 40
"""Characters of the longest bar."""


def prepare(arguments: Arguments) -> int:
    """Turn raw files into shards with dense class ids."""
    if not arguments.words:
        raise arguments.wrong("source=PATH out=PATH and what the columns mean, found nothing")
    clusters = [word for word in arguments.words if word.startswith(_CLUSTER)]
    words = [word for word in arguments.words if word not in clusters]
    config = made(PrepareConfig, [from_overrides([_as_it_is(word) for word in words])])
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step)
            bar.update(tasks[step], completed=done, total=total)

        summary = make(
            config,
            address=clusters[-1].removeprefix(_CLUSTER) if clusters else "auto",
            progress=tell,
        )
    show([*told(summary, config), ""])
    show(following([_training(summary, config)]))
    return 0


def _as_it_is(word: str) -> str:
    """Return a word whose value YAML takes as it is: a separator is mostly a sign of YAML's."""
    text = word.removeprefix(_SEPARATOR)
    if text == word or text in ("", "null") or (len(text) > 1 and text[0] in "'\""):
        return word
    return to_override(_SEPARATOR.removesuffix("="), text)


def told(summary: Summary, config: PrepareConfig) -> list[str]:
    """Return the lines that say what was made."""
    lines = [
        f"{summary.rows_read:,} rows read, {summary.set_aside:,} of them set aside",
        *(f"    {count:,}: {reason}" for reason, count in summary.reasons.items()),
    ]
    if summary.without_class:
        known = "is known" if config.classes else f"{config.min_count:,} rows have"
        lines.append(f"{plural(summary.without_class, 'row')} without a class that {known}")
    if summary.set_aside:
        lines.append(f"what is set aside: {config.out}/aside.parquet")
    written = ", ".join(f"{name} {count:,}" for name, count in summary.rows.items() if count)
    lines += [
        f"rows written: {written or 'none'}",
        f"{summary.classes:,} classes, by how many rows have them:",
    ]
    most = max(summary.histogram.values(), default=0)
    for least, count in summary.histogram.items():
        bar = "█" * max(1, round(_WIDTH * count / most))
        lines.append(f"{int(least):>12,} and more  {bar} {count:,}")
    return lines


def _training(summary: Summary, config: PrepareConfig) -> list[str]:
    """Return a command that trains on what was made."""
    inputs = [f"data.text=[{','.join(config.text)}]"] if config.text else []
    if config.format == "xmc":
        inputs = ["data.indices=indices", "data.values=values"]
    inputs += [f"data.indices={config.indices}"] if config.indices else []
    inputs += [f"data.values={config.values}"] if config.values else []
    # The default is for more classes.
    default, fitting = RunConfig().partition.buckets, buckets_for(summary.classes)
    few = [f"partition.buckets={fitting}"] if fitting < default else []
    return [
        "train",
        "run=runs/first",
        f"data.train={config.out}/train",
        f"data.classes={summary.classes}",
        f"data.class_names={config.classes or f'{config.out}/classes.parquet'}",
        "data.weight=weight",
        *inputs,
        *few,
    ]
