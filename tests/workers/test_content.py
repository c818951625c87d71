"""What was read once must be read again: flipped, cut, missing and replaced shards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.builders import CLASSES, queries, world_config
from workers.attempt import run_attempt
from workers.config import WorldConfig
from workers.errors import BadShardError, DataError, StorageError
from workers.shards import Content, ShardSet, merge_content
from workers.shards.content import PIECE_ROWS, piece_hash
from workers.storage import Storage
from workers.world import World

ROWS, GROUP = 200, 50


def write(path: Path, *, seed: int = 0, checksums: bool = False) -> Path:
    """Write rows in which a byte can be flipped without Parquet noticing, unless it checks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        queries(ROWS, seed),
        path,
        row_group_size=GROUP,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=checksums,
    )
    return path


def flip(path: Path, group: int = 2) -> None:
    """Turn a letter of one text of a row group into another letter."""
    data = path.read_bytes()
    at = pq.ParquetFile(path).metadata.row_group(group).column(0).data_page_offset
    letter = data.index(b"thing", at + 100)
    # In place: whoever reads meanwhile finds the old letter or the new one, never half a file.
    with path.open("r+b") as file:
        file.seek(letter)
        file.write(bytes([data[letter] ^ 1]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    write(path, seed=9)


def config_of(shards: Path, **changes: Any) -> WorldConfig:
    return world_config(str(shards), **{"epochs": 4, "block_rows": 50, **changes})


def train(
    config: WorldConfig, *, spoil: Callable[[], None] | None = None, at: int = 0, **kept: Any
) -> World:
    """Train a world; `spoil` is called after `at` steps."""
    world = World(config, 1, **kept)
    spoiled: list[int] = []

    def stop() -> bool:
        if spoil and world.step >= at and not spoiled:
            spoiled.append(world.step)
            spoil()
        return False

    try:
        world.train(stop=stop)
    finally:
        world.close()
    return world


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a world reads of `write(.../x.parquet)`."""
    shard = write(tmp_path_factory.mktemp("good") / "x.parquet")
    return train(config_of(shard, epochs=1)).content.to_dict()


@pytest.mark.parametrize("checksums", [False, True], ids=["plain", "checksums"])
def test_a_byte_that_flips_between_two_epochs(tmp_path: Path, checksums: bool) -> None:
    shard = write(tmp_path / "x.parquet", checksums=checksums)
    found = "readable Parquet" if checksums else r"the content of the first read \(hash \w{8}…\)"
    with pytest.raises(
        BadShardError,
        match=rf"world 1, step \d+: \S+x.parquet, row group 2.*: expected {found}, found.*;"
        " restore the file",
    ):
        # All of the first epoch is trained on: every row group was read.
        train(config_of(shard), spoil=lambda: flip(shard), at=20)


def test_the_rest_of_a_run_does_not_depend_on_being_told(tmp_path: Path) -> None:
    # The other side of the test above: nobody knows what a first read should have found.
    shard = write(tmp_path / "x.parquet")
    flip(shard)
    assert train(config_of(shard)).step == 80


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip, "row group 2, rows from 0: expected the content of the first read"),
        (cut, "expected a Parquet file, found: "),
        (remove, "expected a Parquet file, a folder"),
        (replace, "expected the shard that the run began with, 8,585 bytes"),
    ],
)
def test_a_world_is_not_resumed_on_other_data(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    shard = write(tmp_path / "x.parquet")
    world = World(config_of(shard), 1)
    state: dict[str, Any] = {}
    kept = []

    def keep(w: World) -> bool:
        state.update(json.loads(json.dumps(w.state())))
        kept.append((dict(w.parameters), dict(w.optimizer_state)))
        return True

    world.train(checkpoint=keep)
    world.close()
    spoil(shard)

    def resume() -> None:
        again = World(config_of(shard), 1)
        try:
            again.restore(*kept[-1], state)
            # From the first row on, so that every row group is read again.
            again.train()
        finally:
            again.close()

    state["position"] = {"epoch": 0, "block": 0, "row": 0}
    with pytest.raises(DataError, match=re.escape(message)):
        resume()


def test_every_world_must_read_what_the_first_one_read(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    shard = write(tmp_path / "x.parquet")
    same = train(config_of(shard, epochs=1), dataset={"content": content})
    assert same.step == 20
    assert same.content.to_dict() == content
    flip(shard, group=3)
    with pytest.raises(BadShardError, match=r"x.parquet, row group 3, rows from 0: expected"):
        train(config_of(shard, epochs=1), dataset={"content": content})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "b.parquet: expected a Parquet file, found: "),
        (remove, "b.parquet: expected the shard that the run began with, found no file; restore"),
        (replace, r"b.parquet: expected the shard that the run began with, [\d,]+ bytes with 200"),
    ],
)
def test_a_world_begins_with_the_shards_of_its_run(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet")
    dataset = {"fingerprint": ShardSet(str(tmp_path)).fingerprint()}
    World(config_of(tmp_path), 0, dataset).close()
    spoil(tmp_path / "b.parquet")
    with pytest.raises(BadShardError, match=message):
        World(config_of(tmp_path), 0, dataset)


def test_shards_that_came_later_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet")
    fingerprint = ShardSet(str(tmp_path)).fingerprint()
    write(tmp_path / "a.parquet", seed=3)
    shards = ShardSet(str(tmp_path), known=fingerprint)
    assert shards.fingerprint() == fingerprint
    assert shards.rows == ROWS


def test_a_new_time_of_change_is_no_change(tmp_path: Path) -> None:
    shard = write(tmp_path / "x.parquet")
    fingerprint = ShardSet(str(shard)).fingerprint()
    shard.write_bytes(shard.read_bytes())
    assert ShardSet(str(shard), known=fingerprint).fingerprint() == fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": "9"},
        {"bytes": -1},
        {"row_groups": [1.5]},
        {"row_groups": 3},
        {"name": 7},
        {"schema": [None]},
        {"footer": 5},
    ],
)
def test_a_fingerprint_that_was_altered_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    shard = write(tmp_path / "x.parquet")
    (record,) = ShardSet(str(shard)).fingerprint()["shards"]
    ShardSet(str(shard), known={"shards": [record]})
    altered: list[Any] = [[{**record, **change}], [None], [{}], None]
    for shards in altered:
        with pytest.raises(StorageError, match="expected a fingerprint of shards, found"):
            ShardSet(str(shard), known={"shards": shards})


def test_names_in_a_fingerprint_cannot_leave_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "secret.parquet")
    shard = write(tmp_path / "data" / "x.parquet")
    known = ShardSet(str(shard)).fingerprint()
    known["shards"][0]["name"] = "../secret.parquet"
    with pytest.raises(BadShardError, match="found no file"):
        ShardSet(str(shard), known=known)


@pytest.mark.parametrize(
    "table", [[], {"x": []}, {"x": {"a": []}}, {"x": {"0": ["short"]}}, {"x": {"0": "0" * 32}}]
)
def test_hashes_that_were_altered_are_refused(table: Any) -> None:
    with pytest.raises(StorageError, match="expected hashes of what was read"):
        merge_content({}, table)


def test_what_worlds_read_is_merged_and_compared() -> None:
    one, two, other = ("0" * 32, "1" * 32, "2" * 32)
    merged = merge_content({"a": {"0": [one]}}, {"b": {"1": [two]}, "a": {"0": [one, two]}})
    assert merged == {"a": {"0": [one, two]}, "b": {"1": [two]}}
    with pytest.raises(BadShardError, match=f"a, row group 0, rows from {PIECE_ROWS}: expected"):
        merge_content(merged, {"a": {"0": [one, other]}})


def test_an_attempt_leaves_what_it_read_beside_its_weights(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    shard = write(tmp_path / "x.parquet")
    receipts = [
        run_attempt(str(tmp_path / "run"), config_of(shard), world, "01-aa") for world in (0, 1)
    ]
    storage = Storage(str(tmp_path / "run"))
    for world, receipt in enumerate(receipts):
        folder = f"worlds/{world:03d}/attempts/01-aa/final"
        assert "content.json" in storage.verify(folder).files
        found = storage.read_json(f"{folder}/content.json")["content"]
        assert found == content
        assert receipt["left_out"] == []
    # Both worlds read the same, in orders of their own.
    assert receipts[0]["content_sha256"] == receipts[1]["content_sha256"]
    assert receipts[0]["model_sha256"] != receipts[1]["model_sha256"]


def test_an_attempt_holds_its_data_against_the_runs(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    shard = write(tmp_path / "x.parquet")
    storage = Storage(str(tmp_path / "run"))
    fingerprint = ShardSet(str(shard)).fingerprint()
    storage.write_json("dataset.json", {"fingerprint": fingerprint, "content": content})
    flip(shard)
    with pytest.raises(BadShardError, match="row group 2, rows from 0: expected the content"):
        run_attempt(storage.uri, config_of(shard), 0, "01-aa")
    replace(shard)
    with pytest.raises(BadShardError, match="expected the shard that the run began with"):
        run_attempt(storage.uri, config_of(shard), 0, "02-bb")


columns = st.lists(
    st.tuples(
        st.text(max_size=5),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        st.tuples(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False)),
        st.integers(0, CLASSES - 1),
    ),
    min_size=1,
    max_size=12,
)
Rows = list[tuple[str, list[int], tuple[float, float], int]]


def table_of(rows: Rows) -> pa.Table:
    text, ids, vectors, labels = zip(*rows, strict=True)
    return pa.table(
        {
            "text": pa.array(text, pa.large_string()),
            "ids": pa.array(ids, pa.large_list(pa.int64())),
            "vector": pa.array(vectors, pa.list_(pa.float32(), 2)),
            "labels": pa.array(labels, pa.int64()),
        }
    )


@given(columns, st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=40)
def test_a_hash_does_not_depend_on_how_rows_lie_in_memory(rows: Rows, one: int, two: int) -> None:
    table = table_of(rows)
    begin, end = sorted((one % (len(rows) + 1), two % (len(rows) + 1)))
    if begin == end:
        return
    middle = pa.concat_tables([table.slice(begin, 1), table.slice(begin + 1, end - begin - 1)])
    assert piece_hash(middle) == piece_hash(table_of(rows[begin:end]))


@given(columns, columns)
@settings(max_examples=40)
def test_other_rows_have_another_hash(one: Rows, other: Rows) -> None:
    same = table_of(one).equals(table_of(other))
    signs = str(one) == str(other)
    assert (piece_hash(table_of(one)) == piece_hash(table_of(other))) == (same and signs)


def test_a_null_has_a_hash_of_its_own() -> None:
    def of(values: list[Any], kind: pa.DataType) -> str:
        return piece_hash(pa.table({"a": pa.array(values, kind)}))

    assert of([1, None], pa.int32()) == of([1, None], pa.int32())
    assert len({of(v, pa.int32()) for v in ([1, None], [None, 1], [1], [1, 0])}) == 4
    lists = pa.large_list(pa.int32())
    assert len({of(v, lists) for v in ([[1], None], [[1], []], [[1, None]], [[None, 1]])}) == 4
    assert of(["a", None], pa.large_string()) != of(["a", ""], pa.large_string())


def test_pieces_of_a_large_row_group_are_checked_before_they_are_used(tmp_path: Path) -> None:
    rows = 2 * PIECE_ROWS + 10
    labels = np.arange(rows) % CLASSES
    shard = tmp_path / "x.parquet"
    pq.write_table(pa.table({"query": [f"thing{i}" for i in labels], "labels": labels}), shard)
    world = train(world_config(str(shard), epochs=1, batch_size=2048, block_rows=8192))
    table = world.content.to_dict()
    assert [len(pieces) for pieces in table["x.parquet"].values()] == [3]
    table["x.parquet"]["0"][1] = "0" * 32
    again = World(world.config, 1, {"content": table})
    with pytest.raises(BadShardError, match=f"row group 0, rows from {PIECE_ROWS}: expected"):
        again.train()
    again.close()
    # The rows before it: two blocks of 8,192.
    assert again.step == 2 * 4


def test_content_is_the_same_whatever_the_order() -> None:
    one, two = Content(), Content()
    pieces = [("a", 0, 0), ("b", 10, 0), ("b", 9, 0), ("a", 0, 1)]
    for shard, group, piece in pieces:
        one.add(shard, group, piece, f"{piece:032d}")
    for shard, group, piece in [pieces[2], pieces[0], pieces[3], pieces[1], pieces[0]]:
        two.add(shard, group, piece, f"{piece:032d}")
    assert one.to_dict() == two.to_dict()
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict())
    assert one.digest() == two.digest() != Content().digest()
