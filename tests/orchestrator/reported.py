"""Runs with much to report: attempts that ended in every way, metrics, evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.run import Run
from orchestrator.state import WorldState
from tests.orchestrator.builders import attempt, begun

HOSTILE = "</title></style><script>document.title='broken'</script><img src=x onerror=alert(1)>"
"""As a name, a message or a machine: no page must take it for more than text."""
STEPS = 40


def clock(minutes: int) -> str:
    """Return a time on the first day of 2026, `minutes` after noon."""
    return f"2026-01-01T{12 + minutes // 60:02d}:{minutes % 60:02d}:00+00:00"


def tell(run: Run, world: int, name: str, steps: Iterable[int], **values: Any) -> None:
    """Write the metrics and the progress of an attempt that told something at these steps."""
    lines = [
        {
            "step": step,
            "steps": STEPS,
            "epoch": 0,
            "loss": 3.0 - step / STEPS + world / 10,
            "rows_per_second": 100.0 + world,
            "seconds": 6.0 * step,
            "bucket_accuracy": 0.1 * (step // 20) + world / 100 if step >= 20 else None,
            **values,
        }
        for step in steps
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines)
    run.storage.append(run.paths.metrics(world, name), data.encode(), ".jsonl")
    run.storage.write_json(run.paths.progress(world, name), lines[-1])


def measure(run: Run, *combiners: str, worlds: int = 4, data: str = "held-out") -> None:
    """Keep an evaluation of 1, 2, 4, ... worlds."""
    counts = [count for count in (1, 2, 4, 8) if count <= worlds]
    curves = [
        {
            "combiner": combiner,
            "worlds": count,
            "metrics": {"P@1": 0.1 * count - 0.02 * place, "R@10": 0.15 * count},
        }
        for place, combiner in enumerate(combiners)
        for count in counts
    ]
    values = {"ensemble": "abc", "data": data, "rows": 60, "at": clock(0), "curves": curves}
    run.storage.append("evaluations", json.dumps({"schema": 1, **values}).encode(), ".json")


def eventful(folder: Path, *overrides: str) -> Run:
    """Return a run of eight worlds whose attempts ended in all ways, one failed and one pending."""
    run = begun(folder, "worlds=8", *overrides)
    fingerprint = {"rows": 200, "shards": [{"name": "train.parquet", "rows": 200}]}
    run.storage.write_json(run.paths.dataset, {"fingerprint": fingerprint}, schema=1)
    ends: list[tuple[Any, str]] = [
        ("preemption", "its machine was taken"),
        ("error", HOSTILE),
        ("hung", "no step for 900 s"),
        ("stopped", ""),
        ("out_of_memory", "a smaller batch_size needs less"),
        ("data", "train.parquet, row group 1"),
    ]
    for world, (cause, message) in enumerate(ends):
        first = attempt(
            "01-aa",
            cause,
            started_at=clock(0),
            ended_at=clock(2 + world),
            message=message,
            node=f"<b>node-{world % 2}</b>",
            steps=10,
        )
        tell(run, world, "01-aa", range(5, 25, 5))
        if world == 4:
            run.save(WorldState(index=world, status="failed", attempts=(first,)))
            continue
        second = attempt("02-bb", "done", started_at=clock(10), ended_at=clock(14), steps=STEPS)
        tell(run, world, "02-bb", range(15, STEPS + 1, 5))
        both = (first, second)
        run.save(WorldState(index=world, status="done", attempts=both, winner="02-bb"))
    runs = attempt("01-cc", None, started_at=clock(10))
    tell(run, 6, "01-cc", range(5, 25, 5))
    run.save(WorldState(index=6, status="running", attempts=(runs,)))
    return run
