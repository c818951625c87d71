"""The peak memory of one world, in a process that does nothing else.

    python -m benchmarks.engine.peak STEPS < config.json

Reads a world's settings, trains for some steps, and prints the bytes by which the process grew
since a small world had been trained, whose code and kernels are the same.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.clock import resident
from workers.attempt import Stopped, run_attempt
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
from workers.world import World


def main() -> None:
    """Print the growth as JSON."""
    config = read_config(json.loads(sys.stdin.read()))
    steps = int(sys.argv[1])
    train_a_little(config)
    before = resident("VmRSS")
    train(config, steps)
    print(json.dumps({"bytes": resident("VmHWM") - before}))


def read_config(values: dict[str, Any]) -> WorldConfig:
    """Return the settings that `WorldConfig.to_dict` wrote."""
    groups = {
        "data": DataConfig,
        "partition": PartitionConfig,
        "features": FeaturesConfig,
        "model": ModelConfig,
        "optimizer": OptimizerConfig,
        "training": TrainingConfig,
    }
    made: dict[str, Any] = {
        name: group(**{key: _hashable(value) for key, value in values[name].items()})
        for name, group in groups.items()
    }
    return WorldConfig(**made, seed=values["seed"])


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def train_a_little(config: WorldConfig) -> None:
    """Train a world of a hundred rows of the same columns, with the same kernels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        source = next(iter(sorted(Path(config.data.train).glob("*.parquet"))), None)
        rows = pq.ParquetFile(source or config.data.train).iter_batches(100)
        pq.write_table(pa.Table.from_batches([next(rows)]), path)
        small = replace(
            config,
            data=replace(config.data, train=str(path)),
            partition=replace(config.partition, buckets=16),
            features=replace(config.features, dimension=1024),
            model=replace(config.model, hidden=(16,) * len(config.model.hidden)),
            training=replace(config.training, epochs=1, batch_size=50),
        )
        with closing(World(small, 0)) as world:
            world.train()


def train(config: WorldConfig, steps: int) -> None:
    """Train a world for some steps, with a checkpoint on the way."""
    config = replace(config, runtime=RuntimeConfig(checkpoint_steps=-(-steps // 2)))
    counted = itertools.count(1)
    with tempfile.TemporaryDirectory() as run, contextlib.suppress(Stopped):
        run_attempt(run, config, 0, "01-a", stop=lambda: next(counted) > steps)


if __name__ == "__main__":
    main()
