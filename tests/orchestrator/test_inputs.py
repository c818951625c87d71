"""What is looked at before a run begins, or goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import RunConfig, load, override
from orchestrator.inputs import open_inputs
from orchestrator.run import Run
from tests.workers.builders import CLASSES, queries, write_shard
from workers.errors import BadShardError, RunError


def config_of(folder: Path, how: str) -> RunConfig:
    return load(
        None,
        [
            f"run={folder}/run",
            f"data.train={folder}/rows",
            f"data.classes={CLASSES}",
            "data.text=[query]",
            "partition.buckets=8",
            f"data.on_bad_shard={how}",
        ],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_shard(tmp_path / "rows" / f"{name}.parquet", queries(1000), rows=300)
    write_shard(tmp_path / "rows" / "c.parquet", queries(10))
    return tmp_path


def test_a_bad_shard_stops_a_run_before_it_begins(folder: Path) -> None:
    (folder / "rows" / "c.parquet").write_bytes(b"")
    with pytest.raises(BadShardError, match=r"c\.parquet: expected a Parquet file"):
        open_inputs(config_of(folder, "fail"))


def test_where_bad_shards_may_be_left_out_a_run_goes_on_without_one(folder: Path) -> None:
    config = config_of(folder, "skip")
    fingerprint = open_inputs(config).fingerprint()
    run = Run.create(config.run, config.identity(), config.settings())
    run.check_dataset(fingerprint)
    (folder / "rows" / "c.parquet").unlink()
    shards = open_inputs(config)
    run.check_dataset(shards.fingerprint())
    assert list(shards.lost) == [2]


def test_otherwise_a_run_does_not_go_on_with_other_data(folder: Path) -> None:
    config = config_of(folder, "fail")
    run = Run.create(config.run, config.identity(), config.settings())
    run.check_dataset(open_inputs(config).fingerprint())
    (folder / "rows" / "c.parquet").unlink()
    with pytest.raises(RunError, match=r"c\.parquet is missing"):
        run.check_dataset(open_inputs(config).fingerprint())


def test_a_run_that_met_a_bad_shard_may_go_on_without_it(folder: Path) -> None:
    config = config_of(folder, "fail")
    run = Run.create(config.run, config.identity(), config.settings())
    run.check_dataset(open_inputs(config).fingerprint())
    (folder / "rows" / "c.parquet").unlink()
    wanted = override(config, ["data.on_bad_shard=skip"])
    shards = open_inputs(wanted)
    again = Run.create(wanted.run, wanted.identity(), wanted.settings())
    again.check_dataset(shards.fingerprint())
    kept = Run.open(config.run)
    assert RunConfig.from_parts(run.uri, kept.identity, kept.settings) == wanted
