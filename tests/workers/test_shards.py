from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.builders import CLASSES, queries, write_queries, write_shard
from workers.config import DataConfig
from workers.errors import DataError
from workers.shards import (
    LANES,
    Block,
    Content,
    LeftOuts,
    Position,
    ShardSet,
    Slice,
    plan_epoch,
    read_table,
    shuffled_blocks,
    steps_per_epoch,
    tables_in_order,
)

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=15)
block_sizes = st.integers(1, 60)


def groups_of(rows: list[int]) -> list[Slice]:
    return [Slice(index % 3, index, 0, size) for index, size in enumerate(rows)]


def plan(rows: list[int], block_rows: int, world: int = 0, epoch: int = 0) -> list[list[Slice]]:
    groups = groups_of(rows)
    return plan_epoch(groups, block_rows=block_rows, seed=1, world=world, epoch=epoch)


@given(sizes, block_sizes)
def test_an_epoch_has_every_row_exactly_once(rows: list[int], block_rows: int) -> None:
    pieces = [piece for block in plan(rows, block_rows) for piece in block]
    seen = Counter(
        (piece.shard, piece.group, row)
        for piece in pieces
        for row in range(piece.start, piece.start + piece.rows)
    )
    everything = [(g.shard, g.group, row) for g in groups_of(rows) for row in range(g.rows)]
    assert seen == Counter(everything)


@given(sizes, block_sizes)
def test_blocks_do_not_follow_row_groups(rows: list[int], block_rows: int) -> None:
    lengths = [sum(piece.rows for piece in block) for block in plan(rows, block_rows)]
    assert set(lengths[:-1]) <= {block_rows}
    assert 1 <= lengths[-1] <= block_rows


@given(sizes, block_sizes)
def test_row_groups_are_read_in_order_and_few_at_a_time(rows: list[int], block_rows: int) -> None:
    read: Counter[int] = Counter()
    for piece in (piece for block in plan(rows, block_rows) for piece in block):
        assert piece.start == read[piece.group]
        read[piece.group] += piece.rows
        assert sum(0 < read[group] < size for group, size in enumerate(rows)) <= LANES


@given(sizes, block_sizes, st.integers(1, 20))
def test_steps_are_those_of_the_blocks(rows: list[int], block_rows: int, batch: int) -> None:
    lengths = [sum(piece.rows for piece in block) for block in plan(rows, block_rows)]
    wanted = sum(-(-length // batch) for length in lengths)
    assert steps_per_epoch(sum(rows), block_rows=block_rows, batch_size=batch) == wanted


def test_the_order_depends_on_world_and_epoch_alone() -> None:
    rows = [7] * 30
    assert plan(rows, 20) == plan(rows, 20)
    orders = [plan(rows, 20), plan(rows, 20, world=1), plan(rows, 20, epoch=1)]
    assert all(one != other for one, other in zip(orders, orders[1:] + orders[:1], strict=True))


def test_a_block_mixes_row_groups() -> None:
    blocks = plan([1000] * 20, 400)
    assert {len({piece.group for piece in block}) for block in blocks} == {LANES}


DATA = DataConfig(train="-", classes=CLASSES, text=("query",), block_rows=64)


def blocks_of(
    shards: ShardSet,
    data: DataConfig,
    *,
    seed: int = 5,
    world: int = 3,
    epochs: int = 1,
    start: Position | None = None,
) -> Iterator[Block]:
    """Yield the blocks of shards that nothing was read or left out of before."""
    return shuffled_blocks(
        shards,
        data,
        seed=seed,
        world=world,
        epochs=epochs,
        start=start or Position(),
        content=Content(),
        left_out=LeftOuts(shards, data),
    )


def stream(shards: ShardSet, start: Position | None = None, world: int = 3) -> list[Block]:
    return list(blocks_of(shards, DATA, world=world, epochs=2, start=start))


def rows_of(blocks: list[Block]) -> list[tuple[str, int]]:
    tables = [block.table for block in blocks]
    return [
        (query, label)
        for table in tables
        for query, label in zip(
            table["query"].to_pylist(), table["labels"].to_pylist(), strict=True
        )
    ]


def test_every_epoch_shuffles_every_row_anew(tmp_path: Path) -> None:
    blocks = stream(ShardSet(write_queries(tmp_path)))
    first = rows_of([block for block in blocks if block.epoch == 0])
    second = rows_of([block for block in blocks if block.epoch == 1])
    table = queries(300)
    stored = list(zip(table["query"].to_pylist(), table["labels"].to_pylist(), strict=True))
    assert sorted(first) == sorted(second) == sorted(stored)
    assert first != second
    assert first[:64] != sorted(first[:64])


def test_a_stream_goes_on_from_any_block(tmp_path: Path) -> None:
    shards = ShardSet(write_queries(tmp_path))
    blocks = stream(shards)
    assert [(block.epoch, block.index) for block in blocks] == [
        (epoch, index) for epoch in range(2) for index in range(5)
    ]
    for done, block in enumerate(blocks):
        rest = stream(shards, Position(epoch=block.epoch, block=block.index, row=block.index * 7))
        assert [(b.epoch, b.index, b.pieces) for b in rest] == [
            (b.epoch, b.index, b.pieces) for b in blocks[done:]
        ]
        assert rows_of(rest) == rows_of(blocks[done:])


def test_the_rows_of_a_block_are_shuffled_anew(tmp_path: Path) -> None:
    # One row group a block: only the shuffle inside blocks is left.
    shards = ShardSet(write_shard(tmp_path / "a.parquet", queries(60).slice(0, 60)))
    orders = [rows_of([block]) for block in stream(shards)]
    assert len(orders) == 2
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]
    assert orders[0] != rows_of(stream(shards, world=0))[:60]
    # Two blocks of one row group are not shuffled alike.
    positions = []
    halves = DataConfig(train="-", classes=100, text=("query",), block_rows=30)
    table = queries(60).set_column(1, "labels", pa.array(range(60)))
    whole = ShardSet(write_shard(tmp_path / "b.parquet", table))
    for block in blocks_of(whole, halves):
        labels = block.table["labels"].to_numpy()
        positions.append((labels - labels.min()).tolist())
    assert len(positions) == 2
    assert positions[0] != positions[1]


def test_the_texts_of_a_block_may_be_longer_than_32_bits_count(tmp_path: Path) -> None:
    ids = pa.array([[1, 2]] * 300, pa.list_(pa.int64()))
    write_shard(tmp_path / "a.parquet", queries(300).append_column("ids", ids))
    data = DataConfig(train="-", classes=CLASSES, text=("query",), indices="ids")
    (block,) = blocks_of(ShardSet(str(tmp_path)), data)
    assert block.table.schema.field("query").type == pa.large_string()
    assert block.table.schema.field("ids").type == pa.large_list(pa.int64())


def test_a_glob_names_shards_by_their_folders(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        write_shard(tmp_path / day / "x.parquet", queries(30))
    shards = ShardSet(f"{tmp_path}/*day/x.parquet")
    names = [shard["name"] for shard in shards.fingerprint()["shards"]]
    assert names == ["monday/x.parquet", "tuesday/x.parquet"]
    assert shards.paths == [f"{tmp_path}/{name}" for name in names]


def test_worlds_see_the_rows_in_orders_of_their_own(tmp_path: Path) -> None:
    shards = ShardSet(write_queries(tmp_path))
    assert rows_of(stream(shards, world=0)) != rows_of(stream(shards, world=1))


@pytest.mark.parametrize("name", ["", "*.parquet", "[ab].parquet"])
def test_folders_and_globs(tmp_path: Path, name: str) -> None:
    folder = Path(write_queries(tmp_path / "data"))
    (folder / "notes.txt").write_text("not a shard")
    shards = ShardSet(str(folder / name))
    assert [Path(path).name for path in shards.paths] == ["a.parquet", "b.parquet"]
    assert shards.rows == 300
    assert [group.rows for group in shards.groups] == [70, 70, 70, 25, 25, 25, 15]


@pytest.mark.parametrize("name", ["", "/a.parquet", "/*.parquet"])
def test_uris_of_a_filesystem(tmp_path: Path, name: str) -> None:
    uri = f"file://{write_queries(tmp_path)}{name}"
    plain = ShardSet(uri.removeprefix("file://"))
    assert ShardSet(uri).fingerprint() == plain.fingerprint()
    assert rows_of(stream(ShardSet(uri))) == rows_of(stream(plain))


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_queries(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert ShardSet("data").rows == ShardSet("data/*.parquet").rows == 300


def test_a_fingerprint_tells_data_sets_apart(tmp_path: Path) -> None:
    found = ShardSet(write_queries(tmp_path / "one")).fingerprint()
    assert found["rows"] == 300
    assert [shard["name"] for shard in found["shards"]] == ["a.parquet", "b.parquet"]
    assert [shard["rows"] for shard in found["shards"]] == [210, 90]
    assert [shard["row_groups"] for shard in found["shards"]] == [
        [70, 70, 70],
        [25, 25, 25, 15],
    ]
    assert found["shards"][0]["schema"] == ["query: string", "labels: int64", "row: int64"]
    assert found["shards"][0]["bytes"] == (tmp_path / "one" / "a.parquet").stat().st_size
    write_shard(tmp_path / "two" / "a.parquet", queries(210))
    assert ShardSet(str(tmp_path / "two")).fingerprint() != found


def test_shards_may_order_columns_differently_and_forbid_nulls(tmp_path: Path) -> None:
    table = queries(60)
    strict = pa.schema([field.with_nullable(False) for field in table.schema])
    write_shard(tmp_path / "a.parquet", table)
    write_shard(tmp_path / "b.parquet", table.cast(strict).select(["row", "labels", "query"]))
    shards = ShardSet(str(tmp_path))
    shards.check_columns(DATA)
    assert len(rows_of(stream(shards))) == 2 * 120


@pytest.fixture(scope="module")
def shards_of_queries(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet(write_queries(tmp_path_factory.mktemp("queries")))


@given(rows=st.integers(1, 80), limit=st.none() | st.integers(1, 400))
def test_tables_in_order(shards_of_queries: ShardSet, rows: int, limit: int | None) -> None:
    shards = shards_of_queries
    tables = list(tables_in_order(shards, DATA, rows=rows, limit=limit, more_columns=["row"]))
    found = [row for table in tables for row in table["row"].to_pylist()]
    assert found == list(range(min(300, limit or 300)))
    assert max(table.num_rows for table in tables) <= rows


def test_lists_and_single_labels_come_out_of_slices_whole(tmp_path: Path) -> None:
    lists = [[row % 5, *[7] * (row % 3)] for row in range(100)]
    table = pa.table({"ids": pa.array(lists, pa.list_(pa.int32())), "labels": lists})
    write_shard(tmp_path / "a.parquet", table.slice(3, 50), rows=7)
    write_shard(tmp_path / "b.parquet", table.slice(53), rows=100)
    data = DataConfig(train="-", classes=10, indices="ids", block_rows=11)
    blocks = blocks_of(ShardSet(str(tmp_path)), data)
    found = [row for block in blocks for row in block.table["ids"].to_pylist()]
    assert sorted(found) == sorted(lists[3:])


def peak_bytes(folder: Path, rows: int, group_rows: int | None) -> int:
    ids = np.random.default_rng(0).integers(0, 2**60, (rows, 8))
    table = pa.table(
        {
            "ids": pa.FixedSizeListArray.from_arrays(ids.reshape(-1), 8).cast(pa.list_(pa.int64())),
            "labels": np.zeros(rows, np.int64),
        }
    )
    write_shard(folder / "a.parquet", table, rows=group_rows)
    data = DataConfig(train="-", classes=2, indices="ids", block_rows=4096)
    del table, ids
    gc.collect()
    before = pa.total_allocated_bytes()
    blocks = blocks_of(ShardSet(str(folder)), data)
    peak: int = max(pa.total_allocated_bytes() - before for _ in blocks)
    return peak


@pytest.mark.parametrize("group_rows", [None, 16_384], ids=["one", "many"])
def test_memory_depends_neither_on_the_data_nor_on_its_row_groups(
    tmp_path: Path, group_rows: int | None
) -> None:
    small = peak_bytes(tmp_path / "small", 65_536, group_rows)
    large = peak_bytes(tmp_path / "large", 262_144, group_rows)
    assert 0 < large < 1.2 * small


def test_read_table_reads_whole_columns(tmp_path: Path) -> None:
    folder = write_queries(tmp_path)
    assert read_table(folder, ["row"])["row"].to_pylist() == list(range(300))
    with pytest.raises(DataError, match="expected Parquet with columns nothing"):
        read_table(f"{folder}/a.parquet", ["nothing"])
