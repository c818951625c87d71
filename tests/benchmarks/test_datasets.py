"""Which benchmark sets are found, and how their columns of lists are read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.datasets import DATA_VARIABLE, SETS, BenchmarkSet, Lists, find_sets, read_lists


def write(folder: Path, *shards: dict[str, pa.Array]) -> Path:
    folder.mkdir(parents=True)
    for number, columns in enumerate(shards):
        pq.write_table(pa.table(columns), folder / f"part-{number:03d}.parquet")
    return folder


def make_set(root: Path, name: str, parts: tuple[str, str] = ("train", "test")) -> None:
    for part in parts:
        write(root / name / part, {"labels": pa.array([[1]])})
    (root / name / "stats.json").write_text(json.dumps({"K": 7}))


def find_one(name: str, cache: Path) -> BenchmarkSet:
    found, left_out = find_sets([name], cache=cache, build=False)
    assert left_out == []
    return found[0]


def as_lists(column: Lists) -> list[list[int]]:
    return [part.tolist() for part in np.split(column.ids, column.offsets[1:-1])]


def test_without_the_variable_every_set_is_left_out_and_said_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    found, left_out = find_sets(cache=tmp_path, build=False)
    assert found == []
    assert [line.partition(":")[0] for line in left_out] == list(SETS)
    assert DATA_VARIABLE in left_out[-1]


def test_a_set_that_is_there_is_found_and_one_that_is_not_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    make_set(tmp_path, "tldr")
    found, left_out = find_sets(["omw", "tldr"], cache=tmp_path, build=False)
    assert [(one.name, one.classes, one.class_names) for one in found] == [("tldr", 7, None)]
    assert len(left_out) == 1
    assert left_out[0].startswith("omw: left out; expected stats.json, train, test in the folder")


def test_debian_depends_is_split_by_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    make_set(tmp_path, "debian_depends", ("train_by_source", "test_by_source"))
    chosen = find_one("debian_depends", tmp_path)
    assert (chosen.train.name, chosen.test.name) == ("train_by_source", "test_by_source")
    assert chosen.multi_label


def test_api_search_comes_from_the_cache(tmp_path: Path) -> None:
    make_set(tmp_path, "api_search")
    (tmp_path / "api_search" / "stats.json").write_text(json.dumps({"classes": 9}))
    assert find_one("api_search", tmp_path).classes == 9


def test_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected some of .*tldr.*; found tdlr"):
        find_sets(["tdlr"], cache=tmp_path, build=False)


def test_lists_go_on_over_shards_and_nulls_are_empty(tmp_path: Path) -> None:
    lists = pa.list_(pa.int32())
    folder = write(
        tmp_path / "rows",
        {"labels": pa.array([[3, 1], [], None], lists)},
        {"labels": pa.array([[2]], lists)},
    )
    column = read_lists(folder, "labels")
    assert as_lists(column) == [[3, 1], [], [], [2]]
    assert column.rows.tolist() == [0, 0, 3]


def test_single_integers_are_lists_of_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", {"labels": pa.array([4, None, 2])})
    assert as_lists(read_lists(folder, "labels")) == [[4], [], [2]]


@given(st.lists(st.lists(st.integers(0, 2**40), max_size=4), min_size=1, max_size=20))
def test_lists_read_back_as_written(rows: list[list[int]]) -> None:
    column = {"labels": pa.array(rows, pa.list_(pa.int64()))}
    with tempfile.TemporaryDirectory() as folder:
        assert as_lists(read_lists(write(Path(folder) / "rows", column), "labels")) == rows
