"""What the soak says of a run: whom it may kill, and what its attempts did twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.writing import RESULTS
from chaos import soak
from orchestrator.run import Run
from orchestrator.state import WorldState
from orchestrator.views import WorldView
from tests.orchestrator.builders import attempt, begun


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begun(tmp_path)


def tell(run: Run, name: str, step: int | None, resumed: int | None, pid: int = 1) -> None:
    """Write what an attempt at world 0 leaves: its log, and the last step that it told."""
    folder = f"worlds/000/attempts/{name}"
    lines = [f"2026-01-01T12:00:00Z INFO    world 0, attempt {name} began on here, process {pid}"]
    if resumed is not None:
        source = f"worlds/000/attempts/01-aa/checkpoints/{resumed:08d}"
        lines.append(f"2026-01-01T12:00:01Z INFO    resumed from {source}, 7 steps to go")
    run.storage.write_bytes(f"{folder}/log.txt", "\n".join([*lines, ""]).encode())
    if step is not None:
        run.storage.write_json(f"{folder}/progress.json", {"step": step})


def test_steps_are_done_twice_from_the_checkpoint_on(run: Run) -> None:
    names = ["01-aa", "02-bb", "03-cc", "04-dd"]
    attempts = (*(attempt(name, "error") for name in names[:3]), attempt("04-dd", "done"))
    run.save(WorldState(index=0, status="done", attempts=attempts, winner="04-dd"))
    told = [(25, None), (None, 20), (48, 20), (60, 40)]
    for name, (step, resumed) in zip(names, told, strict=True):
        tell(run, name, step, resumed)
    found = soak.retraced(run)
    assert (found["attempts"], found["resumes"], found["steps"]) == (4, 3, 60)
    # The second and the third went on from step 20, the fourth from step 40.
    assert found["steps_done_twice"] == {"all": 13, "mean": 4.3, "largest": 8}


def test_only_living_descendants_are_ours() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert soak.is_ours(child.pid)
        assert not soak.is_ours(os.getppid())
        assert not soak.is_ours(1)
    finally:
        child.communicate(b"\n")
    assert not soak.is_ours(child.pid)


def test_the_killer_kills_processes_of_running_worlds_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "input()"]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(2)]
    tell(run, "01-aa", None, None, pid=children[0].pid)
    tell(run, "02-bb", 4, None, pid=children[1].pid)
    run.storage.commit("worlds/000/attempts/02-bb/checkpoints/00000004", {"a": b"weights"})
    views = [WorldView(world=0, state="running"), WorldView(world=1, state="pending")]
    monkeypatch.setattr(soak, "_ANYONE", 0.0)
    with soak.Killer(run.uri, every=0.01, seed=0) as killer:
        killer.listen(views)
        assert children[1].wait(timeout=60) == -signal.SIGKILL
    assert killer.kills == [soak.Kill(0, "02-bb")]
    assert children[0].poll() is None
    for child in children:
        child.communicate()


def test_the_table_says_what_was_found() -> None:
    values: dict[str, Any] = json.loads((RESULTS / "soak.json").read_text())
    assert soak.table(values) == (RESULTS / "soak.md").read_text()
    assert values["weights_equal"] == values["worlds"] == values["done"] == 32
