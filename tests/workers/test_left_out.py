"""Row groups that cannot be trained on: left out within a budget, reported, resumed exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.builders import bits, copies, queries, world_config
from workers.attempt import run_attempt
from workers.config import WorldConfig
from workers.errors import BadShardError, DataError, StorageError
from workers.shards import ShardSet
from workers.world import Progress, Stopped, World

ROWS, GROUP = 100, 25
# Two shards of four row groups; blocks of 40 rows, so that row groups are cut by them.
EPOCH_STEPS = 5 * 4


def write(folder: Path, *names: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        pq.write_table(
            queries(ROWS, seed),
            folder / f"{name}.parquet",
            row_group_size=GROUP,
            compression="none",
            use_dictionary=False,
            write_page_checksum=True,
        )
    return str(folder)


def flip(path: Path, group: int) -> None:
    """Spoil one row group so that its checksum fails."""
    data = bytearray(path.read_bytes())
    at = pq.ParquetFile(path).metadata.row_group(group).column(0)
    data[at.data_page_offset + at.total_compressed_size - 3] ^= 1
    path.write_bytes(data)


def config_of(folder: str, **changes: Any) -> WorldConfig:
    few = {"on_bad_shard": "skip", "bad_rows_budget": 0.3, "block_rows": 40, "report_steps": 4}
    return world_config(folder, **{**few, **changes})


def train(config: WorldConfig, **how: Any) -> World:
    world = World(config, 1)
    try:
        world.train(**how)
    finally:
        world.close()
    return world


def result(world: World) -> tuple[Any, ...]:
    return bits(world.parameters), bits(world.optimizer_state), world.step, world.left_out


def groups(world: World) -> list[tuple[str, int | None]]:
    return sorted((entry.shard, entry.row_group or 0) for entry in world.left_out)


def test_a_bad_row_group_is_left_out_and_reported(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", "b")
    flip(tmp_path / "b.parquet", 2)
    told: list[Progress] = []
    world = train(config_of(folder), report=told.append)
    assert groups(world) == [("b.parquet", 2)]
    (entry,) = world.left_out
    assert (entry.rows, entry.epoch) == (GROUP, 0)
    assert "b.parquet, row group 2: expected readable Parquet, found" in entry.why
    assert told[-1].left_out_rows == GROUP
    assert told[-1].steps == 2 * EPOCH_STEPS
    # Both epochs have 175 rows: some batches are short, some blocks have fewer.
    assert EPOCH_STEPS < world.step < 2 * EPOCH_STEPS
    assert ("b.parquet", "2") not in {
        (shard, group) for shard, found in world.content.to_dict().items() for group in found
    }


def test_the_same_data_are_refused_by_default(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", "b")
    flip(tmp_path / "b.parquet", 2)
    with pytest.raises(BadShardError, match=r"b.parquet, row group 2: expected readable Parquet"):
        train(config_of(folder, on_bad_shard="fail"))


def test_nothing_is_left_out_of_good_data(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", "b")
    skips, fails = (train(config_of(folder, on_bad_shard=how)) for how in ("skip", "fail"))
    assert result(skips) == result(fails)
    assert skips.left_out == ()


def test_past_the_budget_the_world_stops(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", "b")
    for group in (0, 1):
        flip(tmp_path / "a.parquet", group)
    assert train(config_of(folder, bad_rows_budget=0.25)).step > 0
    with pytest.raises(
        BadShardError,
        match=r"world 1, step \d+: \S+a.parquet, row group [01]: expected readable Parquet,.*;"
        r" without it, 50 of 200 rows would be left out, more than data.bad_rows_budget = 0.24",
    ):
        train(config_of(folder, bad_rows_budget=0.24))


def test_rows_that_cannot_be_trained_on_are_left_out_too(tmp_path: Path) -> None:
    folder = write(tmp_path, "a")
    table = queries(ROWS, 5)
    labels = table["labels"].to_pylist()
    labels[60] = None
    table = table.set_column(1, "labels", pa.array(labels, pa.int64()))
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=GROUP)
    world = train(config_of(folder))
    (entry,) = world.left_out
    assert "b.parquet, row group 2, row 10: expected a value" in entry.why


@pytest.mark.parametrize("step", [1, 5, 9, 14, 17, 20, 26])
def test_a_resumed_world_leaves_out_the_same(tmp_path: Path, step: int) -> None:
    folder = write(tmp_path, "a", "b")
    flip(tmp_path / "b.parquet", 2)
    config = config_of(folder)
    undisturbed = train(config)
    saved: list[Any] = []

    def keep(world: World) -> None:
        state = json.loads(json.dumps(world.state()))
        saved.append((copies(world.parameters), copies(world.optimizer_state), state))

    world = World(config, 1)
    with pytest.raises(Stopped):
        world.train(stop=lambda: world.step >= step)
    keep(world)
    world.close()
    again = World(config, 1)
    again.restore(*saved[-1])
    again.train()
    again.close()
    assert result(again) == result(undisturbed)


def test_what_was_left_out_stays_out_when_the_shard_is_mended(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", "b")
    good = (tmp_path / "b.parquet").read_bytes()
    flip(tmp_path / "b.parquet", 2)
    undisturbed = train(config_of(folder))
    saved: list[Any] = []

    def keep(world: World) -> None:
        saved.append((copies(world.parameters), copies(world.optimizer_state), world.state()))

    world = World(config_of(folder), 1)
    # In the second epoch, when the row group was met already.
    with pytest.raises(Stopped):
        world.train(stop=lambda: world.step >= 24)
    keep(world)
    world.close()
    (tmp_path / "b.parquet").write_bytes(good)
    again = World(config_of(folder), 1)
    again.restore(*saved[-1])
    again.train()
    again.close()
    assert result(again) == result(undisturbed)


def test_an_epoch_ends_where_its_rows_end(tmp_path: Path) -> None:
    # Without the second shard's only row group, most blocks of an epoch are empty.
    folder = write(tmp_path / "rows", "a")
    options: dict[str, Any] = {
        "compression": "none",
        "use_dictionary": False,
        "write_page_checksum": True,
    }
    pq.write_table(queries(8 * ROWS, 1), tmp_path / "rows" / "b.parquet", **options)
    held_out = write(tmp_path / "held", "c")
    flip(tmp_path / "rows" / "b.parquet", 0)
    told: list[Progress] = []
    config = config_of(folder, validation=held_out, bad_rows_budget=0.9, report_steps=1000)
    world = train(config, report=told.append)
    assert [progress.epoch for progress in told] == [0, 1]
    assert all(progress.bucket_accuracy is not None for progress in told)
    assert told[0].step >= ROWS // 10
    assert told[1].step == world.step < world.steps // 2
    assert sum(entry.rows for entry in world.left_out) == 8 * ROWS


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def replace(path: Path) -> None:
    pq.write_table(queries(ROWS, 77), path)


@pytest.mark.parametrize("spoil", [remove, cut, replace])
def test_a_shard_that_went_is_left_out_and_the_others_keep_their_order(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = write(tmp_path, "a", "b", "c", "d")
    fingerprint = ShardSet(folder).fingerprint()
    spoil(tmp_path / "b.parquet")
    world = World(config_of(folder), 1, {"fingerprint": fingerprint})
    world.train()
    world.close()
    assert groups(world) == [("b.parquet", group) for group in range(4)]
    assert {entry.why.split(":")[0] for entry in world.left_out} == {f"{tmp_path}/b.parquet"}
    assert world.state()["data"]["fingerprint"] == fingerprint
    with pytest.raises(BadShardError, match=r"b.parquet: .*; without it, 100 of 400 rows would"):
        World(config_of(folder, bad_rows_budget=0.2), 1, {"fingerprint": fingerprint})


def test_a_shard_that_could_never_be_read_is_left_out_by_its_size(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", "b", "c", "d")
    good = (tmp_path / "b.parquet").read_bytes()
    cut(tmp_path / "b.parquet")
    world = train(config_of(folder))
    (entry,) = world.left_out
    assert (entry.shard, entry.row_group) == ("b.parquet", None)
    assert 95 <= entry.rows <= 100
    # It stays out when it is mended: the run began without it.
    fingerprint = world.state()["data"]["fingerprint"]
    (tmp_path / "b.parquet").write_bytes(good)
    again = World(config_of(folder), 1, {"fingerprint": fingerprint})
    again.train()
    again.close()
    assert bits(again.parameters) == bits(world.parameters)
    with pytest.raises(
        DataError, match=r"b.parquet: expected a Parquet file, .* rows would be left"
    ):
        cut(tmp_path / "b.parquet")
        World(config_of(folder, bad_rows_budget=0.1), 1)


def test_a_receipt_lists_what_was_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", "a", "b")
    flip(tmp_path / "rows" / "a.parquet", 1)
    receipt = run_attempt(str(tmp_path / "run"), config_of(folder), 0, "01-aa")
    (entry,) = receipt["left_out"]
    assert (entry["shard"], entry["row_group"], entry["rows"]) == ("a.parquet", 1, GROUP)
    progress = json.loads((tmp_path / "run/worlds/000/attempts/01-aa/progress.json").read_text())
    assert progress["left_out_rows"] == GROUP


@pytest.mark.parametrize("altered", [None, [1], [{"shard": "a"}]])
def test_an_altered_list_of_what_was_left_out_is_refused(tmp_path: Path, altered: Any) -> None:
    world = World(config_of(write(tmp_path, "a")), 0)
    state = {**world.state(), "left_out": altered}
    with pytest.raises(StorageError, match="expected a list of row groups that were left out"):
        world.restore(copies(world.parameters), copies(world.optimizer_state), state)
    world.close()
