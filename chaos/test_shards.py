"""Shards that are altered, cut, taken away or replaced while a run trains on them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow.parquet as pq
import pytest

from chaos.looking import Look
from chaos.training import GROUP, Source, Training, is_there
from chaos.waiting import wait_for
from tests.cluster.machines import Machines

SECOND_EPOCH = 125
"""A step of it: by then every row was read once."""


def flip(shard: Path) -> None:
    """Alter one bit of a text: without checksums, it decodes as before."""
    data = shard.read_bytes()
    with shard.open("r+b") as file:
        # In the middle of the first row group's texts: its statistics come before them.
        position = data.index(b"item", len(data) // 12) + 4
        file.seek(position)
        file.write(bytes([data[position] ^ 1]))


def cut(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def replace(shard: Path) -> None:
    """Put another shard in its place, of as many rows."""
    table = pq.read_table(shard)
    other = table.take(list(reversed(range(table.num_rows))))
    pq.write_table(other, shard.with_suffix(".new"), row_group_size=GROUP)
    shard.with_suffix(".new").rename(shard)


def damaged(
    config: Any, look: Look, damage: Callable[[], None], *, restart: bool
) -> tuple[Any, float]:
    """Train one world, and damage its data in the second epoch; return what came of it.

    An open file outlives its name: a world that has it open goes on, and its next attempt meets
    the damage (`restart`).
    """
    with Training(config) as training:
        found = wait_for("the second epoch", lambda: look.running(0, step=SECOND_EPOCH))
        damage()
        began = time.monotonic()
        if restart:
            os.kill(found.process, signal.SIGKILL)
        summary = training.summary()
        return summary, time.monotonic() - began


WANTED = "that world stops with file, row group and advice"


@pytest.mark.parametrize(
    ("damage", "restart", "words"),
    [
        pytest.param(
            flip,
            False,
            ["2.parquet, row group", "other content", "restore the file"],
            marks=pytest.mark.case(
                fault="a shard with a flipped bit and without page checksums", wanted=WANTED
            ),
        ),
        pytest.param(
            cut,
            False,
            ["2.parquet, row group", "restore the file"],
            marks=pytest.mark.case(fault="a shard truncated", wanted=WANTED),
        ),
        pytest.param(
            Path.unlink,
            True,
            ["2.parquet", "found no file", "restore it"],
            marks=pytest.mark.case(
                fault="a shard missing when the world resumes",
                wanted="that world stops with file and advice",
            ),
        ),
        pytest.param(
            replace,
            True,
            ["2.parquet", "expected the shard that the run began with", "restore it"],
            marks=pytest.mark.case(
                fault="a shard replaced since the run began",
                wanted="that world stops with file and advice",
            ),
        ),
    ],
)
def test_a_world_stops_at_a_shard_that_is_not_what_it_was(
    machines: Machines,
    source: Source,
    tmp_path: Path,
    record_property: Any,
    damage: Callable[[Path], None],
    restart: bool,
    words: list[str],
) -> None:
    data = Path(copytree(source.data, tmp_path / "data"))
    config = source.config(tmp_path / "run", "worlds=1", f"data.train={data}")
    look = Look(tmp_path / "run")
    summary, seconds = damaged(config, look, lambda: damage(data / "2.parquet"), restart=restart)
    message = summary.failed.get(0, "")
    record_property("told", message)
    record_property("seconds after the fault", seconds)
    assert [word for word in words if word not in message] == []
    assert look.causes(0)[-1] == "data"
    assert len(look.tries(0)) == 1 + restart


@pytest.mark.parametrize(
    ("budget", "goes_on"),
    [
        pytest.param(
            0.1,
            True,
            marks=pytest.mark.case(
                fault="the flipped bit, with `data.on_bad_shard=skip` and a budget of 10 %",
                wanted="goes on without the row group, and reports it",
            ),
        ),
        pytest.param(
            0.05,
            False,
            marks=pytest.mark.case(
                fault="the flipped bit, with `data.on_bad_shard=skip` and a budget of 5 %",
                wanted="stops, because 6 % would be left out",
            ),
        ),
    ],
)
def test_row_groups_are_left_out_within_a_budget(
    machines: Machines,
    source: Source,
    tmp_path: Path,
    record_property: Any,
    budget: float,
    goes_on: bool,
) -> None:
    data = Path(copytree(source.data, tmp_path / "data"))
    config = source.config(
        tmp_path / "run",
        "worlds=1",
        f"data.train={data}",
        "data.on_bad_shard=skip",
        f"data.bad_rows_budget={budget}",
    )
    look = Look(tmp_path / "run")
    summary, _ = damaged(config, look, lambda: flip(data / "2.parquet"), restart=False)
    run = look.run
    if not goes_on:
        record_property("told", summary.failed[0])
        assert "more than data.bad_rows_budget = 0.05 allows" in summary.failed[0]
        return
    assert summary.done == (0,), summary
    (found,) = look.tries(0)
    receipt = json.loads(run.storage.read_committed(run.paths.final(0, found.name), "receipt.json"))
    (entry,) = receipt["left_out"]
    record_property("rows left out", entry["rows"])
    record_property("reported in the receipt", f"{entry['shard']}, row group {entry['row_group']}")
    assert (entry["shard"], entry["row_group"], entry["rows"]) == ("2.parquet", 0, GROUP)
    assert "other content" in entry["why"]
    assert run.progress(0, found.name)["left_out_rows"] == GROUP
    wait_for("its process to go", lambda: not is_there(found.process), 60.0)
