"""The step of a world as K grows, and its memory beside what is predicted."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.datasets import BenchmarkSet
from benchmarks.engine.setting import ROUNDS, STEPS, middle, world_config
from benchmarks.pace import seconds_a_step
from benchmarks.writing import QUICK
from workers.classifier import choose_bf16
from workers.config import ModelConfig, TrainingConfig, WorldConfig
from workers.memory import predict, row_size
from workers.shards import ShardSet
from workers.world import World

CLASSES = (10**4, 10**6) if QUICK else (10**4, 10**5, 10**6, 10**7, 10**8)
ROWS = 20_000 if QUICK else 200_000
"""Rows with made-up labels, for the worlds of different K."""
PEAK_STEPS = 20 if QUICK else 150
WARM_UP = 8


def over_classes(chosen: BenchmarkSet, folder: Path) -> dict[str, Any]:
    """Return the step and the memory of worlds whose rows differ in their labels alone."""
    texts = pq.read_table(chosen.train, columns=list(chosen.text)).slice(0, ROWS)
    configs = {}
    for classes in CLASSES:
        labels = np.random.default_rng(0).integers(0, classes, texts.num_rows)
        path = folder / f"{classes}.parquet"
        pq.write_table(texts.append_column("labels", pa.array(labels)), path)
        config = world_config(chosen)
        data = replace(config.data, train=str(path), classes=classes, labels="labels")
        configs[classes] = replace(config, data=data)
    seconds: dict[int, list[float]] = {classes: [] for classes in CLASSES}
    worlds = {classes: World(config, 0) for classes, config in configs.items()}
    for _ in range(ROUNDS):
        for classes, world in worlds.items():
            seconds[classes].append(seconds_a_step(world, WARM_UP, STEPS))
    for world in worlds.values():
        world.close()
    first = seconds[CLASSES[0]]
    return {
        str(classes): {
            "step_ms": round(1000 * statistics.median(seconds[classes]), 2),
            "step_ratio": middle(a / b for a, b in zip(seconds[classes], first, strict=True)),
            "bytes": peak_bytes(configs[classes]),
        }
        for classes in CLASSES
    }


def peak_bytes(config: WorldConfig) -> int:
    """Return the peak bytes of a world that trains in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.engine.peak", str(PEAK_STEPS)]
    text = json.dumps(config.to_dict())
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["bytes"])


def memory_beside_prediction(omw: BenchmarkSet, debian: BenchmarkSet) -> dict[str, Any]:
    """Return the measured and the predicted bytes of worlds of several sizes."""
    base = world_config(omw)
    small = replace(base.features, dimension=32_768)
    cases = {
        "as above": base,
        "d = 32,768, h = 64": replace(base, features=small, model=ModelConfig(hidden=(64,))),
        "d = 1,048,576": replace(base, features=replace(small, dimension=1 << 20)),
        "B = 16,384": replace(base, partition=replace(base.partition, buckets=16_384)),
        "two layers of 256, ReLU": replace(
            base, model=ModelConfig(hidden=(256, 256), activation="relu")
        ),
        "bce": replace(base, model=replace(base.model, loss="bce")),
        "batch 4,096": replace(base, training=TrainingConfig(epochs=100, batch_size=4096)),
        "products in float32": replace(base, training=replace(base.training, precision="fp32")),
        "blocks of 8,192 rows": replace(base, data=replace(base.data, block_rows=8192)),
        "debian_depends, texts of 450 bytes": world_config(debian),
    }
    return {name: compared(config) for name, config in cases.items()}


def compared(config: WorldConfig) -> dict[str, Any]:
    """Return the measured and the predicted bytes of a world."""
    measured, predicted = peak_bytes(config), predicted_bytes(config)
    return {"bytes": measured, "predicted": predicted, "ratio": round(predicted / measured, 3)}


def predicted_bytes(config: WorldConfig) -> int:
    """Return what `workers.memory` says of a world that is trained long enough for checkpoints."""
    shards = ShardSet(config.data.train)
    return predict(
        config,
        bf16=choose_bf16(config.training.precision, "cpu"),
        rows=shards.rows,
        row=row_size(shards, config),
        steps=config.runtime.checkpoint_steps + 1,
    ).total
