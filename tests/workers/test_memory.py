from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.builders import world_config, write_queries, write_shard
from workers.classifier import choose_bf16
from workers.config import DataConfig, FeaturesConfig
from workers.features import Featurizer
from workers.memory import Memory, predict
from workers.shards import RowSize, ShardSet, row_size
from workers.world import World

ROW = RowSize(bytes=40, features=10)


def predicted(train: str = "-", steps: int = 5, **changes: Any) -> Memory:
    config = world_config(train, **changes)
    bf16 = choose_bf16(config.training.precision, "cpu")
    return predict(config, bf16=bf16, rows=1000, row=ROW, steps=steps)


@pytest.mark.parametrize("hidden", [(8,), (16, 4)])
def test_weights_and_optimizer_are_what_a_world_holds(
    tmp_path: Path, hidden: tuple[int, ...]
) -> None:
    train = write_queries(tmp_path)
    world = World(world_config(train, hidden=hidden), 0)
    found = predicted(train, hidden=hidden)
    assert found.weights == sum(tensor.nbytes for tensor in world.parameters.values())
    assert found.optimizer == sum(tensor.nbytes for tensor in world.optimizer_state.values())
    world.close()


def test_bf16_keeps_a_copy_of_the_layers_for_products() -> None:
    wide, narrow = predicted(), predicted(precision="bf16")
    assert narrow.weights - wide.weights == 2 * 8 * 8
    assert 2 * narrow.activations == wide.activations


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


def test_a_row_is_as_large_as_in_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = ["".join(map(chr, random.integers(97, 123, 30 + row % 21))) for row in range(500)]
    lists = [list(range(row % 7)) for row in range(500)]
    table = pa.table(
        {
            "query": pa.array(texts, pa.large_string()),
            "ids": pa.array(lists, pa.large_list(pa.int64())),
            "labels": random.integers(0, 40, 500),
            "unread": [b"0" * 1000] * 500,
        }
    )
    data = DataConfig(train=write_shard(tmp_path / "a.parquet", table, 200), classes=40)
    read = DataConfig(**{**vars(data), "text": ("query",), "indices": "ids"})
    found = row_size(ShardSet(data.train), read, FeaturesConfig())
    assert found.bytes == pytest.approx(table.drop_columns("unread").nbytes / 500, rel=0.05)


@pytest.mark.parametrize("char_ngrams", [(4, 4), (3, 5), (0, 0)])
def test_features_of_texts_are_estimated(tmp_path: Path, char_ngrams: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    words = ["".join(map(chr, random.integers(97, 123, random.integers(2, 10)))) for _ in range(99)]
    texts = [" ".join(random.choice(words, 8)) for _ in range(300)]
    table = pa.table({"query": texts, "labels": random.integers(0, 40, 300)})
    data = DataConfig(train=write_shard(tmp_path / "a.parquet", table), classes=40, text=("query",))
    features = FeaturesConfig(char_ngrams=char_ngrams)
    batch = Featurizer(data, features, 0, 0).batch(pq.read_table(data.train), labels=False)
    found = row_size(ShardSet(data.train), data, features).features
    assert found == pytest.approx(len(batch.feature_ids) / 300, rel=0.5)


def test_features_of_lists_and_vectors_are_counted(tmp_path: Path) -> None:
    dense = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(60, np.float32)), 6)
    table = pa.table({"ids": [[1, 2, 3, 4]] * 10, "vector": dense, "labels": range(10)})
    train = write_shard(tmp_path / "a.parquet", table)
    data = DataConfig(train=train, classes=10, indices="ids", dense="vector")
    assert row_size(ShardSet(train), data, FeaturesConfig()).features == 10
