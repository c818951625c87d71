from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.workers.builders import queries, world_config, write_queries, write_shard
from workers.classifier import choose_bf16
from workers.errors import BadShardError
from workers.lsh.config import LshConfig
from workers.memory import Memory, RowSize, predict, row_size
from workers.shards import ShardSet
from workers.world import World

ROW = RowSize(bytes=40, features=10)


def predicted(train: str = "-", steps: int = 5, **changes: Any) -> Memory:
    config = world_config(train, **changes)
    bf16 = choose_bf16(config.training.precision, "cpu")
    return predict(config, bf16=bf16, rows=1000, row=ROW, steps=steps)


HASHED: dict[str, Any] = {"hidden": (16, 4), "active": 0.5, "lsh": LshConfig(narrowest=5, tables=7)}


@pytest.mark.parametrize("changes", [{"hidden": (8,)}, {"hidden": (16, 4)}, HASHED])
def test_weights_and_optimizer_are_what_a_world_holds(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    train = write_queries(tmp_path)
    world = World(world_config(train, **changes), 0)
    found = predicted(train, **changes)
    assert found.weights == sum(tensor.nbytes for tensor in world.parameters.values())
    assert found.optimizer == sum(tensor.nbytes for tensor in world.optimizer_state.values())
    world.close()


def test_bf16_keeps_a_copy_of_the_layers_for_products() -> None:
    wide, narrow = predicted(), predicted(precision="bf16")
    assert narrow.weights - wide.weights == 2 * 8 * 8
    assert 2 * narrow.activations == wide.activations


def test_a_world_that_hashes_holds_tables_and_active_neurons() -> None:
    found = predicted(**HASHED)
    # 8 of 16 neurons, all 4, and 4 of 8 buckets, in batches of 10; tables of 2 codes for 16
    # neurons and 8 buckets.
    active = 10 * (8 + 4 + 4) * 24
    parts = 8 * 10 * 8 * 4
    tables = 7 * 4 * ((16 + 4 + 8) + (8 + 2 + 8))
    assert found.activations == active + parts + tables


def test_a_gpu_holds_the_gradient_of_the_largest_layer() -> None:
    config = world_config("-", hidden=(8, 4))
    here, there = (
        predict(config, bf16=False, on_gpu=on_gpu, rows=10, row=ROW, steps=5).activations
        for on_gpu in (False, True)
    )
    assert there - here == 4 * 8 * 4


def test_a_world_that_is_checkpointed_holds_all_tensors_twice() -> None:
    assert predicted(steps=10).checkpoint == 0
    found = predicted(steps=11)
    assert found.checkpoint == found.weights + found.optimizer


def test_memory_depends_neither_on_the_number_of_classes_nor_on_that_of_rows() -> None:
    config = world_config("-")
    many = world_config("-", classes=10**8)
    sizes = {
        predict(each, bf16=False, rows=rows, row=ROW, steps=5).total
        for each in (config, many)
        for rows in (1000, 10**9)
    }
    assert len(sizes) == 1


def read(tmp_path: Path, table: pa.Table, **columns: Any) -> RowSize:
    path = write_shard(tmp_path / "a.parquet", table, 200)
    config = world_config(path, **{"text": (), **columns})
    return row_size(ShardSet(path), config)


def test_a_row_is_as_large_as_in_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = ["".join(map(chr, random.integers(97, 123, 30 + row % 21))) for row in range(500)]
    lists = [list(range(row % 7)) for row in range(500)]
    table = pa.table(
        {
            # Parquet keeps a text that repeats once, memory each time.
            "query": pa.array([texts[row % 20] for row in range(500)], pa.large_string()),
            "more": pa.array(texts, pa.large_string()),
            "ids": pa.array(lists, pa.large_list(pa.int64())),
            "labels": random.integers(0, 40, 500),
            "unread": [b"0" * 1000] * 500,
        }
    )
    found = read(tmp_path, table, text=("query", "more"), indices="ids")
    assert found.bytes == pytest.approx(table.drop_columns("unread").nbytes / 500, rel=0.1)


def test_features_are_those_of_a_batch(tmp_path: Path) -> None:
    dense = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(60, np.float32)), 6)
    table = pa.table({"ids": [[1, 2, 3, 4]] * 10, "vector": dense, "labels": range(10)})
    assert read(tmp_path, table, indices="ids", dense="vector", dimension=10**6).features == 10


def test_a_shard_that_is_lost_is_passed_over(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", queries(100), 50)
    write_shard(tmp_path / "b.parquet", queries(100), 50)
    known = ShardSet(str(tmp_path)).fingerprint()
    (tmp_path / "a.parquet").unlink()
    shards = ShardSet(str(tmp_path), known=known, lenient=True)
    assert row_size(shards, world_config(str(tmp_path))).features > 1
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    shards = ShardSet(str(tmp_path), known=known, lenient=True)
    with pytest.raises(BadShardError, match=r"a\.parquet"):
        row_size(shards, world_config(str(tmp_path)))
