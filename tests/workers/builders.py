"""Tiny Parquet data sets and the configs of worlds that train on them in no time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from workers.config import (
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    OptimizerConfig,
    PartitionConfig,
    RuntimeConfig,
    TrainingConfig,
    WorldConfig,
)

CLASSES = 40


def write_shard(path: Path, table: pa.Table, rows: int | None = None) -> str:
    """Write a Parquet file with `rows` rows in each row group and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows or max(1, table.num_rows))
    return str(path)


def queries(rows: int, seed: int = 0, classes: int = CLASSES) -> pa.Table:
    """Return queries that name their label: column `query`, column `labels`, column `row`."""
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    texts = [f"thing{label} number {row % 7}" for row, label in enumerate(labels)]
    query = pa.array(texts, pa.string())
    return pa.table({"query": query, "labels": labels, "row": np.arange(rows)})


def write_queries(folder: Path) -> str:
    """Write 300 rows as two shards with row groups of different sizes; return the folder."""
    table = queries(300)
    write_shard(folder / "a.parquet", table.slice(0, 210), rows=70)
    write_shard(folder / "b.parquet", table.slice(210), rows=25)
    return str(folder)


def world_config(train: str, **changes: Any) -> WorldConfig:
    """Return the config of a tiny world; `changes` name fields of any group."""
    groups: dict[str, Any] = {
        "data": DataConfig(train=train, classes=CLASSES, text=("query",), block_rows=64),
        "partition": PartitionConfig(buckets=8),
        "features": FeaturesConfig(dimension=256, char_ngrams=(3, 3)),
        "model": ModelConfig(hidden=(8,)),
        "optimizer": OptimizerConfig(),
        "training": TrainingConfig(epochs=2, batch_size=10, precision="fp32"),
        "runtime": RuntimeConfig(device="cpu", threads=1, checkpoint_steps=10, report_steps=5),
    }
    for name, group in groups.items():
        own = {key: changes.pop(key) for key in list(changes) if hasattr(group, key)}
        groups[name] = dataclasses.replace(group, **own)
    return dataclasses.replace(WorldConfig(**groups), **changes)


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as they are now."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """Return the tensors' bytes, to compare them to the last bit."""
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def stopped_at(step: int) -> Callable[[], bool]:
    """Return what asks an attempt to stop after `step` steps of its own."""
    asked = iter(range(step + 1))
    return lambda: next(asked) == step


def unhurried(stop: Callable[[], bool] = lambda: False) -> Callable[[], bool]:
    """Let each checkpoint be written before the next step, so that all come when they are due."""

    def asked() -> bool:
        await_checkpoints()
        return stop()

    return asked


def await_checkpoints() -> None:
    """Return when no attempt of this process writes a checkpoint beside its training."""
    for thread in threading.enumerate():
        if thread.name == "manyworlds-checkpoint":
            thread.join()
