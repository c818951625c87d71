"""Each kind of bad input: the error names the file, what was expected, found, and to be done."""

from __future__ import annotations

import dataclasses
import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.builders import CLASSES, queries, world_config, write_shard
from workers.config import DataConfig
from workers.errors import BadShardError, ConfigError, DataError, StorageUnreachable
from workers.shards import ShardSet, check_rows, read_table, tables_in_order
from workers.world import World

ROWS, GROUP = 40, 20
# Where the bad row of each case stands: row 7 of row group 1.
BAD = 27
PLACE = r"/x.parquet, row group 1, row 7: "


def column(good: Any, bad: Any, kind: pa.DataType) -> pa.Array:
    values = [good] * ROWS
    values[BAD] = bad
    return pa.array(values, kind)


def train_on(folder: Path, table: pa.Table, **data: Any) -> None:
    """Train a world on a shard of `table`, whose absent columns are made up."""
    for name, values in {"query": ["word"] * ROWS, "labels": [1] * ROWS}.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array(values))
    shard = write_shard(folder / "x.parquet", table, rows=GROUP)
    world = World(world_config(shard, epochs=1, **data), 0)
    try:
        world.train()
    finally:
        world.close()


LISTS = pa.list_(pa.int64())
FLOATS = pa.list_(pa.float64())
VECTORS = pa.list_(pa.float32(), 2)


def test_the_data_of_these_tests_is_good_but_for_what_they_change(tmp_path: Path) -> None:
    everything = pa.table(
        {
            "labels": column([1], [2, 3], LISTS),
            "ids": column([1, 2], [3], LISTS),
            "values": column([1.0, 2.0], [3.0], FLOATS),
            "vector": column([1, 2], [0, 0], VECTORS),
            "weight": column(1.0, 0.0, pa.float64()),
        }
    )
    columns = {"indices": "ids", "values": "values", "dense": "vector", "weight": "weight"}
    train_on(tmp_path, everything, **columns)


BAD_ROWS: dict[str, tuple[dict[str, pa.Array], dict[str, str], str]] = {
    "null text": (
        {"query": column("word", None, pa.string())},
        {},
        "expected a value in column 'query', found null; fill or drop such rows first",
    ),
    "null label": (
        {"labels": column(1, None, pa.int64())},
        {},
        "expected a value in column 'labels', found null; fill or drop such rows first",
    ),
    "null list of labels": (
        {"labels": column([1], None, LISTS)},
        {},
        "expected a value in column 'labels', found null; fill or drop such rows first",
    ),
    "null in a list of labels": (
        {"labels": column([1, 2], [3, None], LISTS)},
        {},
        "expected a value in column 'labels', found null; fill or drop such rows first",
    ),
    "null feature": (
        {"ids": column([1, 2, 3], [None], LISTS)},
        {"indices": "ids"},
        "expected a value in column 'ids', found null; fill or drop such rows first",
    ),
    "null weight": (
        {"weight": column(1.0, None, pa.float32())},
        {"weight": "weight"},
        "expected a value in column 'weight', found null; fill or drop such rows first",
    ),
    "null vector": (
        {"vector": column([1, 2], None, VECTORS)},
        {"dense": "vector"},
        "expected a value in column 'vector', found null; fill or drop such rows first",
    ),
    "null in a vector": (
        {"vector": column([1, 2], [1, None], VECTORS)},
        {"dense": "vector"},
        "expected a value in column 'vector', found null; fill or drop such rows first",
    ),
    "no labels": (
        {"labels": column([1], [], LISTS)},
        {},
        "expected at least one label in column 'labels', found none; drop such rows first",
    ),
    "label too large": (
        {"labels": column(1, CLASSES, pa.int64())},
        {},
        "expected labels in [0, 40) in column 'labels', found 40; set data.classes",
    ),
    "label too large in a list": (
        {"labels": column([1, 2], [3, 2**40], LISTS)},
        {},
        "expected labels in [0, 40) in column 'labels', found 1099511627776; set data.classes",
    ),
    "negative label": (
        {"labels": column(1, -1, pa.int8())},
        {},
        "expected labels in [0, 40) in column 'labels', found -1; set data.classes",
    ),
    "label beyond 64 bits with sign": (
        {"labels": column(1, 2**64 - 1, pa.uint64())},
        {},
        "expected labels in [0, 40) in column 'labels', found 18446744073709551615; set",
    ),
    "fewer values than indices": (
        {"ids": column([1, 2], [1, 2], LISTS), "values": column([1, 2], [1], FLOATS)},
        {"indices": "ids", "values": "values"},
        "expected as many values as column 'ids' has indices, 2, in column 'values', found 1;"
        " write both lists with the same length",
    ),
    "more values than indices": (
        {"ids": column([1, 2], [], LISTS), "values": column([1, 2], [1], FLOATS)},
        {"indices": "ids", "values": "values"},
        "expected as many values as column 'ids' has indices, 0, in column 'values', found 1;",
    ),
    "vector with infinity": (
        {"vector": column([1, 2], [float("-inf"), 0], VECTORS)},
        {"dense": "vector"},
        "expected finite numbers in column 'vector', found -inf; mend or drop such rows first",
    ),
    "weight that is no number": (
        {"weight": column(1, float("nan"), pa.float32())},
        {"weight": "weight"},
        "expected finite weights of at least 0 in column 'weight', found nan; mend or drop",
    ),
    "negative weight": (
        {"weight": column(1, -2, pa.int32())},
        {"weight": "weight"},
        "expected finite weights of at least 0 in column 'weight', found -2.0; mend or drop",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row(tmp_path: Path, case: tuple[dict[str, pa.Array], dict[str, str], str]) -> None:
    columns, data, message = case
    with pytest.raises(DataError, match=PLACE + re.escape(message)):
        train_on(tmp_path, pa.table(columns), **data)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    raw = column(b"word", b"caf\xe9", pa.binary())
    text = pa.Array.from_buffers(pa.string(), ROWS, raw.buffers())
    with pytest.raises(
        DataError,
        match=r"/x.parquet, row group 1: expected text in UTF-8 in column 'query', found bytes"
        r" that are not \(.*Invalid UTF8.*\); write the shard again",
    ):
        train_on(tmp_path, pa.table({"query": text}))


def test_values_need_not_match_across_rows_that_only_add_up(tmp_path: Path) -> None:
    # The same number of values in all, moved by one row.
    ids = pa.array([[1, 2], [3]] * 20, LISTS)
    values = pa.array([[1], [2, 3]] * 20, FLOATS)
    with pytest.raises(DataError, match="as many values as column 'ids' has indices"):
        train_on(tmp_path, pa.table({"ids": ids, "values": values}), indices="ids", values="values")


def test_rows_to_measure_on_may_have_no_labels(tmp_path: Path) -> None:
    table = queries(ROWS).set_column(1, "labels", column([1], [], LISTS))
    shards = ShardSet(write_shard(tmp_path / "x.parquet", table))
    data = DataConfig(train="-", classes=CLASSES, text=("query",))
    (found,) = tables_in_order(shards, data, rows=ROWS)
    assert found["labels"][BAD].as_py() == []


def test_queries_without_labels_are_checked_too() -> None:
    data = DataConfig(train="-", classes=CLASSES, text=("query",))
    check_rows(pa.table({"query": ["good"]}), data, "queries", 0, labels="none")
    with pytest.raises(DataError, match="queries, row 1: expected a value in column 'query'"):
        check_rows(pa.table({"query": ["good", None]}), data, "queries", 0, labels="none")


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ({"query": [1]}, {}, "'query' of type string, found int64"),
        (
            {"query": pa.array(["a"]).dictionary_encode()},
            {},
            "'query' of type string, found dictionary<",
        ),
        ({"labels": [1.0]}, {}, "'labels' of type int or list<int>, found double"),
        ({"labels": [["a"]]}, {}, "'labels' of type int or list<int>, found list<"),
        ({"ids": [1]}, {"indices": "ids"}, "'ids' of type list<int>, found int64"),
        ({"ids": [[0.5]]}, {"indices": "ids"}, "'ids' of type list<int>, found list<"),
        (
            {"ids": [[1]], "v": [["x"]]},
            {"indices": "ids", "values": "v"},
            "'v' of type list<float>, found list<",
        ),
        (
            {"d": [[1.0, 2.0]]},
            {"dense": "d"},
            "'d' of type fixed_size_list<float>, found list<",
        ),
        ({"w": ["1"]}, {"weight": "w"}, "'w' of type float, found string"),
    ],
)
def test_a_column_of_a_wrong_type(
    tmp_path: Path, columns: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    table = pa.table({"query": ["a"], "labels": [1], **columns})
    shard = write_shard(tmp_path / "x.parquet", table)
    with pytest.raises(
        DataError,
        match=r"x.parquet: expected column " + re.escape(message) + ".*; write it as that type",
    ):
        World(world_config(shard, **data), 0)


def test_a_missing_column(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", queries(3))
    write_shard(tmp_path / "b.parquet", queries(3).rename_columns(["question", "labels", "row"]))
    with pytest.raises(
        DataError,
        match=r"b.parquet: expected a column 'query', found only question, labels, row;"
        r" name the columns with data.text",
    ):
        World(world_config(str(tmp_path)), 0)


def test_shards_of_two_schemas(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", queries(3))
    narrow = queries(3).set_column(1, "labels", pa.array([1, 2, 3], pa.int32()))
    write_shard(tmp_path / "b.parquet", narrow)
    with pytest.raises(
        DataError,
        match=r"b.parquet: expected column 'labels' of type int64, as in \S+a.parquet,"
        r" found int32; write all shards with one schema",
    ):
        World(world_config(str(tmp_path)), 0)


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-200])


def overwrite(shard: Path) -> None:
    shard.write_text("query,labels\nword,1\n" * 100)


def empty(shard: Path) -> None:
    shard.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, overwrite, empty])
def test_a_file_that_is_cut_short_or_no_parquet(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    write_shard(tmp_path / "a.parquet", queries(50))
    spoil(Path(write_shard(tmp_path / "b.parquet", queries(50))))
    with pytest.raises(
        BadShardError,
        match=r"b.parquet: expected a Parquet file, found: .+; restore the file, or train",
    ):
        World(world_config(str(tmp_path)), 0)


def test_bytes_that_changed_inside_a_shard(tmp_path: Path) -> None:
    shard = tmp_path / "x.parquet"
    pq.write_table(
        queries(2000), shard, compression="none", use_dictionary=False, write_page_checksum=True
    )
    data = bytearray(shard.read_bytes())
    # Past the page's header, which holds the least and the largest text.
    middle = data.index(b"thing", 10_000)
    data[middle : middle + 5] = b"THING"
    shard.write_bytes(data)
    world = World(world_config(str(shard)), 0)
    with pytest.raises(
        BadShardError,
        match=r"world 0, step 1: \S+x.parquet, row group 0: expected readable Parquet, found: .+;"
        r" restore the file, or train without it",
    ):
        world.train()
    world.close()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("empty", "a folder without any"),
        ("notes", "a folder without any"),
        ("nested", "a folder without any"),
        ("absent", "no file"),
        ("absent.parquet", "no file"),
        ("empty/*.parquet", "no file"),
    ],
)
def test_no_shards(tmp_path: Path, name: str, found: str) -> None:
    for folder in ("empty", "notes", "nested/inner.parquet"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notes" / "readme.txt").write_text("nothing here")
    with pytest.raises(
        DataError,
        match=re.escape(name)
        + r": expected a Parquet file, a folder of \*.parquet files, or a glob, found "
        + f"{found}; check the path",
    ):
        World(world_config(str(tmp_path / name)), 0)


def test_a_uri_of_an_unknown_kind() -> None:
    with pytest.raises(
        DataError, match=r"carrier://pigeon: expected a folder, or a URI of .*, found: "
    ):
        World(world_config("carrier://pigeon"), 0)


def test_shards_without_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.parquet", queries(0))
    with pytest.raises(DataError, match="expected rows, found 2 Parquet files without any; check"):
        World(world_config(str(tmp_path)), 0)


def test_an_empty_shard_among_others_does_no_harm(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", queries(0))
    write_shard(tmp_path / "b.parquet", queries(30))
    world = World(world_config(str(tmp_path), epochs=1), 0)
    world.train()
    world.close()
    assert world.step == 3


def test_more_buckets_than_classes(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "x.parquet", queries(3))
    with pytest.raises(
        ConfigError,
        match=r"partition.buckets: expected at most data.classes = 40 buckets, found 41; MACH",
    ):
        World(world_config(shard, buckets=41), 0)


def test_a_table_without_the_columns_asked_for(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "names.parquet", pa.table({"id": [1]}))
    with pytest.raises(
        BadShardError, match=r"names.parquet: expected Parquet with columns id, name, found: "
    ):
        read_table(shard, ["id", "name"])


def test_the_data_of_a_config_can_be_checked_alone(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "x.parquet", queries(3).select(["query"]))
    config = world_config(shard).data
    ShardSet(shard).check_columns(config, labels=False)
    with pytest.raises(DataError, match="expected a column 'labels'"):
        ShardSet(shard).check_columns(dataclasses.replace(config, text=("query",)))


@pytest.mark.parametrize(
    ("trouble", "wanted"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), StorageUnreachable),
        (OSError(errno.ESTALE, "Stale file handle"), StorageUnreachable),
        (OSError(errno.EIO, "Input/output error"), BadShardError),
        (OSError("Corrupt snappy compressed data"), BadShardError),
        (pa.ArrowInvalid("no pages"), BadShardError),
        (pa.ArrowMemoryError("malloc of size 64 failed"), MemoryError),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_what_says_nothing_of_a_shard_is_not_blamed_on_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
    wanted: type[Exception],
    lenient: bool,
) -> None:
    def fail(*more: Any, **words: Any) -> Any:
        raise trouble

    write_shard(tmp_path / "a.parquet", queries(10))
    shards = ShardSet(str(tmp_path), lenient=lenient)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(wanted):
        list(tables_in_order(shards, world_config(str(tmp_path)).data, rows=10))


def test_a_folder_that_a_glob_finds_is_no_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", queries(10))
    (tmp_path / "b.parquet").mkdir()
    assert ShardSet(str(tmp_path / "*.parquet")).rows == 10
