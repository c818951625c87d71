"""A disk that fills up while a world checkpoints, and gets room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.looking import Look, check_whole, hashes
from chaos.training import Source, Training
from chaos.waiting import wait_for
from orchestrator import api
from tests.cluster.machines import Machines

SIZE = 64 << 20
LEFT = 2 << 20
"""Bytes that the full disk has left: enough for logs and states, not for a checkpoint."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk, which every process of this machine sees."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the program `mount`")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk but for `LEFT`; return the file that does it."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        found = os.statvfs(folder)
        file.write(bytes(max(0, found.f_bavail * found.f_frsize - LEFT)))
    return ballast


@pytest.mark.case(
    fault="disk full while checkpointing, and room again later",
    wanted="the world keeps its last good checkpoint and says so; goes on; same bits",
)
def test_a_disk_that_is_full_for_a_while(
    machines: Machines, source: Source, disk: Path, record_property: Any
) -> None:
    config, look = source.config(disk / "run", "worlds=1"), Look(disk / "run")
    run = config.run

    def trouble() -> str:
        (view,) = api.status(run).views
        return view.trouble

    with Training(config) as training:
        wait_for(
            "a checkpoint", lambda: look.run.paths.newest_checkpoint(0) if look.tries(0) else None
        )
        ballast = fill(disk)
        told = wait_for("a word of trouble", trouble)
        (found,) = look.tries(0)
        good = look.run.paths.newest_checkpoint(0)
        assert good
        look.run.storage.verify(good.folder)
        record_property("last good checkpoint", good.step)
        wait_for("steps in spite of it", lambda: look.running(0, step=found.furthest + 5))
        ballast.unlink()
        summary = training.summary()
    record_property("told", told)
    record_property("attempts", len(look.tries(0)))
    assert "expected room on the disk" in told
    assert f"the last good one is of step {good.step}" in told
    assert "expected room on the disk" in look.log(0, found.name)
    assert summary.done == (0,), summary
    assert hashes(run, summary.done) == {0: source.hashes[0]}
    record_property("commits, all whole", check_whole(run))
    record_property("same bits", True)
