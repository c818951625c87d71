"""Raw files that benchmarks write hold the rows that they are made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.datasets import BenchmarkSet
from benchmarks.prepare.clicks import write_clicks
from benchmarks.prepare.raw import KINDS, config_of, ngrams, write_raw
from orchestrator.prepare import prepare
from workers.config import DataConfig, FeaturesConfig
from workers.features import Featurizer

TEXTS = ['a "quoted" word', "two,\tcommas", "größer, größer", "a b a b", "last"]


@pytest.fixture
def chosen(tmp_path: Path) -> BenchmarkSet:
    names = pa.table({"id": [2, 0, 1], "name": ["a | b", "zero", "é,"]})
    pq.write_table(names, tmp_path / "labels.parquet")
    return BenchmarkSet(
        name="small",
        train=tmp_path,
        test=tmp_path,
        classes=3,
        class_names=tmp_path / "labels.parquet",
        text=("text",),
    )


LABELS = [[0], [1, 2], [2], [0, 1], [1]]
FEATURES: list[dict[str, list[float]]] = [
    {"indices": [number, 1 << 40], "values": [0.5, number]} for number in range(1, 6)
]


def made(chosen: BenchmarkSet, table: pa.Table, kind: str, folder: Path) -> list[dict[str, Any]]:
    """Return the rows that `prepare` makes of a file, with the names of their classes."""
    path = folder / f"{kind}.{kind}"
    write_raw(chosen, table, kind, path)
    prepare(config_of(chosen, kind, path, out=str(folder / "out" / kind), test=0.0), address="none")
    names = pq.read_table(folder / "out" / kind / "classes.parquet")["name"].to_pylist()
    rows = pq.read_table(folder / "out" / kind / "train" / "part-00000.parquet").to_pylist()
    for row in rows:
        row["labels"] = sorted(names[label] for label in row["labels"])
    return sorted(rows, key=lambda row: str(row["labels"]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "xmc"])
def test_texts_and_names_survive_each_format(
    chosen: BenchmarkSet, tmp_path: Path, kind: str
) -> None:
    table = pa.table({"text": TEXTS, "labels": LABELS})
    names = ["zero", "é,", "a | b"]
    expected: list[dict[str, Any]] = [
        {"text": text, "labels": sorted(names[label] for label in labels), "weight": 1.0}
        for text, labels in zip(TEXTS, LABELS, strict=True)
    ]
    expected.sort(key=lambda row: str(row["labels"]))
    assert made(chosen, table, kind, tmp_path) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_features_survive_each_format(chosen: BenchmarkSet, tmp_path: Path, kind: str) -> None:
    sparse = replace(chosen, text=(), indices="indices", values="values", class_names=None)
    table = pa.Table.from_pylist(FEATURES).append_column("labels", pa.array(LABELS))
    expected: list[dict[str, Any]] = [
        {**features, "labels": sorted(map(str, labels)), "weight": 1.0}
        for features, labels in zip(FEATURES, LABELS, strict=True)
    ]
    expected.sort(key=lambda row: str(row["labels"]))
    assert made(sparse, table, kind, tmp_path) == expected


def test_texts_as_features_have_all_of_their_ngrams(chosen: BenchmarkSet, tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS, "labels": LABELS})
    found = made(chosen, table, "xmc", tmp_path)
    expected = [dict(each) for each in ngrams(pa.chunked_array([TEXTS]))]
    rows = [dict(zip(row["indices"], row["values"], strict=True)) for row in found]
    assert sorted(sorted(row.items()) for row in rows) == sorted(
        sorted(row.items()) for row in expected
    )
    # "a b a b": the words and the pair "a b" twice.
    assert sum(expected[3].values()) > len(expected[3])


def test_texts_as_features_are_what_a_world_makes_of_them() -> None:
    pairs = ngrams(pa.chunked_array([TEXTS]))
    table = pa.table(
        {
            "text": TEXTS,
            "indices": [[number for number, _ in row] for row in pairs],
            "values": pa.array([[value for _, value in row] for row in pairs]),
        }
    )
    # So wide that no two of them fall together.
    features = FeaturesConfig(dimension=1 << 30)
    sources = DataConfig(text=("text",)), DataConfig(indices="indices", values="values")
    found = [Featurizer(data, features, 0, 0).batch(table, labels=False) for data in sources]
    for row in range(len(TEXTS)):
        texts, numbers = (
            np.sort(each.feature_values[each.feature_offsets[row] : each.feature_offsets[row + 1]])
            for each in found
        )
        assert numbers == pytest.approx(texts, rel=1e-5)


@pytest.mark.parametrize("rows", [10, 1000])
def test_as_many_names_as_rows_are_all_different(tmp_path: Path, rows: int) -> None:
    write_clicks(tmp_path / "a.csv", rows, rows)
    lines = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert len({line.split(",")[1] for line in lines}) == rows
    write_clicks(tmp_path / "a.csv", rows, rows // 10)
    lines = (tmp_path / "a.csv").read_text().splitlines()[1:]
    _, counts = np.unique([line.split(",")[1] for line in lines], return_counts=True)
    assert counts.tolist() == [10] * (rows // 10)
