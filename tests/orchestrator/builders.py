"""Tiny runs: settings, data, and trained worlds, in this process and in no time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import api
from orchestrator.config import RunConfig, load
from orchestrator.run import Run
from orchestrator.state import Attempt, Cause
from orchestrator.views import WorldView
from workers.storage import RunPaths, Storage

CLASSES = 64
RUNNING = WorldView(
    world=3,
    state="running",
    attempts=2,
    cause="preempted at 12:03",
    step=1200,
    steps=9000,
    rows_per_second=52_345.6,
    loss=3.2149,
    bucket_accuracy=0.4711,
    seconds_left=150.0,
)
PROGRESS = {
    "step": 30,
    "steps": 40,
    "epoch": 1,
    "loss": 1.5,
    "rows_per_second": 100.0,
    "seconds": 6.0,
    "bucket_accuracy": None,
}
"""What an attempt's progress.json holds."""


def searches(rows: int, seed: int = 0) -> pa.Table:
    """Return searches: columns query, labels (one or two of 64), bought (none to three)."""
    rng = np.random.default_rng(seed)
    labels = [rng.choice(CLASSES, rng.integers(1, 3), replace=False).tolist() for _ in range(rows)]
    bought = [rng.integers(0, CLASSES, rng.integers(0, 4)).tolist() for _ in range(rows)]
    texts = [" and ".join(f"thing{label}" for label in row) for row in labels]
    lists = pa.list_(pa.int64())
    columns = {"labels": pa.array(labels, lists), "bought": pa.array(bought, lists)}
    return pa.table({"query": texts, **columns})


def write(path: Path, table: pa.Table, rows: int | None = None) -> str:
    """Write a Parquet file with `rows` rows in each row group and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return str(path)


def named_classes() -> pa.Table:
    """Return names of the 64 classes, in falling order of their ids."""
    ids = list(reversed(range(CLASSES)))
    return pa.table({"id": ids, "name": [f"thing {i}" for i in ids]})


def run_config(folder: Path, *overrides: str) -> RunConfig:
    """Return the settings of a run of three tiny worlds in `folder`, its data written."""
    settings = [
        f"run={folder / 'run'}",
        f"data.train={write(folder / 'train.parquet', searches(200), rows=90)}",
        f"data.classes={CLASSES}",
        "data.text=[query]",
        "partition.buckets=16",
        "features.dimension=256",
        "model.hidden=[8]",
        "training.batch_size=20",
        "training.epochs=2",
        "training.precision=fp32",
        "runtime.threads=1",
        "runtime.device=cpu",
        "worlds=3",
        "cluster.address=none",
        "cluster.gpus_per_world=0",
    ]
    return load(None, [*settings, *overrides])


def trained(config: RunConfig) -> Path:
    """Train the worlds of a run and return its folder."""
    summary = api.train(config)
    assert not summary.failed and summary.error is None, summary
    return Path(summary.run)


def copied(run: Path, target: Path, *, merged: bool = False) -> Path:
    """Copy a run, with its ensembles or without, and return the copy."""
    leave = None if merged else shutil.ignore_patterns("ensembles")
    return Path(shutil.copytree(run, target, ignore=leave))


def final(run: Path, world: int) -> Path:
    """Return the folder of a world's weights and receipt."""
    paths = RunPaths(Storage(str(run)))
    found = paths.finished(world)
    assert found is not None
    return run / paths.final(world, found[0])


def flip(path: Path) -> None:
    """Alter one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def recommit(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of a committed folder and commit them: all hashes are right again."""
    storage = Storage(str(folder.parent))
    old = storage.manifest(folder.name).files
    new = {name: storage.write_file(f"{folder.name}/{name}", data) for name, data in files.items()}
    storage.seal(folder.name, {**old, **new})


def begun(folder: Path, *overrides: str) -> Run:
    """Return a new run of three worlds in `folder`, at which nothing was tried yet."""
    config = run_config(folder, *overrides)
    return Run.create(config.run, config.identity(), config.settings())


def attempt(name: str, cause: Cause | None, **values: Any) -> Attempt:
    """Return an attempt of 90 seconds; `cause` None: it runs still."""
    ended = "2026-01-01T12:01:30+00:00" if cause else None
    times = {"started_at": "2026-01-01T12:00:00+00:00", "ended_at": ended}
    return Attempt(**{"name": name, "cause": cause, **times, **values})
