"""The pace of a world that reads its rows from Parquet, beside that of its steps alone."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.pace import seconds_a_step
from workers.config import (
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    PartitionConfig,
    RuntimeConfig,
    TrainingConfig,
    WorldConfig,
)
from workers.world import World

CLASSES = 10**7
_WARM_UP = 20
_GROUP = 100_000


def rows_a_second(
    *,
    device: str,
    batch: int,
    steps: int,
    dimension: int,
    hidden: int,
    buckets: int,
    features: int,
) -> float:
    """Train a world on made-up rows of feature ids from disk, and return its pace.

    Args:
        device: as `runtime.device`.
        batch: rows a step.
        steps: that are timed, after those that warm up.
        dimension: d.
        hidden: h.
        buckets: B.
        features: a row.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write(path, (steps + _WARM_UP + 1) * batch, features)
        config = WorldConfig(
            data=DataConfig(train=str(path), classes=CLASSES, indices="indices"),
            partition=PartitionConfig(buckets=buckets),
            features=FeaturesConfig(dimension=dimension),
            model=ModelConfig(hidden=(hidden,), activation="relu"),
            training=TrainingConfig(epochs=1, batch_size=batch),
            runtime=RuntimeConfig(device=device),
        )
        with closing(World(config, 0)) as world:
            return batch / seconds_a_step(world, _WARM_UP, steps)


def write(path: Path, rows: int, features: int) -> None:
    """Write rows of `features` ids each, and a label."""
    random = np.random.default_rng(0)
    schema = pa.schema([("indices", pa.list_(pa.int64())), ("labels", pa.int64())])
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as file:
        for start in range(0, rows, _GROUP):
            count = min(_GROUP, rows - start)
            ids = (10**6 * random.random(count * features) ** 6).astype(np.int64)
            offsets = np.arange(0, count * features + 1, features, dtype=np.int32)
            lists = pa.ListArray.from_arrays(offsets, ids)
            labels = random.integers(0, CLASSES, count)
            file.write_table(pa.table({"indices": lists, "labels": labels}, schema=schema))
