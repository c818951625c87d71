"""Processes of worlds that are killed, hang, or go on when they were thought dead."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chaos.looking import INTERVAL, REPORTS, Look, check_whole, hashes
from chaos.training import ENVIRONMENT, ROOT, STEPS, WORLDS, Source, Training, is_there
from chaos.waiting import wait_for
from orchestrator.inputs import open_inputs
from orchestrator.run import Run
from orchestrator.transitions import begun
from tests.cluster.machines import Machines
from workers.storage import RunPaths

SEED = 20240717
KILLS = 6
STALL = 20.0
"""Seconds."""


@pytest.mark.case(
    fault="SIGKILL of a world's process at random steps, repeatedly",
    wanted="resumes alone; loses at most one checkpoint interval and one upload; same bits",
)
def test_a_world_that_is_killed_again_and_again_resumes(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    rng = random.Random(SEED)
    # By world, the steps that its next attempts do not get past.
    left = {
        world: sorted(rng.sample(range(STEPS - 2 * INTERVAL), KILLS // WORLDS))
        for world in range(WORLDS)
    }
    killed: set[str] = set()
    config = source.config(tmp_path / "run", "retry.error=10")
    look = Look(tmp_path / "run")

    def kill_next() -> bool:
        for world, steps in left.items():
            found = look.running(world, step=steps[0]) if steps else None
            if found and found.name not in killed:
                os.kill(found.process, signal.SIGKILL)
                killed.add(found.name)
                steps.pop(0)
        return not any(left.values())

    with Training(config) as training:
        wait_for(f"worlds to reach the steps {left}", kill_next)
        summary = training.summary()
    assert summary.done == tuple(range(WORLDS))
    assert hashes(config.run, summary.done) == source.hashes
    ends = [cause for world in range(WORLDS) for cause in look.causes(world)]
    assert sorted(map(str, ends)) == ["done"] * WORLDS + ["error"] * KILLS
    twice = [steps for world in range(WORLDS) for steps in look.done_twice(world)]
    record_property("kills", KILLS)
    record_property("resumes", len(twice))
    record_property("steps done twice, at most", max(twice))
    record_property("steps done twice, mean", sum(twice) / len(twice))
    record_property("checkpoint interval", INTERVAL)
    record_property("same bits", True)
    assert len(twice) == KILLS
    # An upload took less than an interval: at most one was under way beside the one that is lost.
    assert max(twice) <= 2 * INTERVAL + REPORTS
    check_whole(config.run)


@pytest.mark.case(
    fault="a world that hangs (SIGSTOP)",
    wanted="killed after `retry.stall_timeout`, resumed; same bits",
)
def test_a_world_that_hangs_is_killed_and_resumed(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    config = source.config(tmp_path / "run", "worlds=1", f"retry.stall_timeout={STALL}")
    look = Look(tmp_path / "run")
    with Training(config) as training:
        victim = wait_for("the world to train", lambda: look.running(0, step=60))
        os.kill(victim.process, signal.SIGSTOP)
        stopped = time.monotonic()
        wait_for("its end", lambda: look.causes(0)[0])
        ended = time.monotonic() - stopped
        wait_for("the process to go", lambda: not is_there(victim.process), 60.0)
        gone = time.monotonic() - stopped
        summary = training.summary()
    record_property("stall_timeout", STALL)
    record_property("seconds until it was called hung", ended)
    record_property("until its process was gone", gone)
    assert look.causes(0) == ["hung", "done"]
    assert ended + 2.0 >= STALL
    assert hashes(config.run, summary.done) == {0: source.hashes[0]}
    assert max(look.done_twice(0)) <= 2 * INTERVAL + REPORTS
    record_property("same bits", True)


@pytest.mark.case(
    fault="a late writer: an attempt that was thought dead goes on writing",
    wanted="cannot spoil the newer attempt; same bits",
)
def test_a_late_writer_spoils_nothing(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    config = source.config(tmp_path / "run", "worlds=1")
    look = Look(tmp_path / "run")
    run = Run.create(config.run, config.identity(), config.settings())
    run.check_dataset(open_inputs(config).fingerprint())
    name = RunPaths.attempt_name(1, "1a7ea77e")
    # As a driver leaves it that dies while its actor lives on.
    run.save(begun(run.state(0), name, "2026-01-01T00:00:00+00:00"))
    words = [sys.executable, "-m", "chaos.lone_attempt", config.run, "0", name]
    with subprocess.Popen(words, env={**os.environ, **ENVIRONMENT}, cwd=ROOT) as late:
        try:
            wait_for("the first attempt to train", lambda: look.running(0, step=100))
            late.send_signal(signal.SIGSTOP)
            before = set(run.storage.sizes())
            with Training(config) as training:
                wait_for("the second to train", lambda: look.running(0, number=2, step=150))
                late.send_signal(signal.SIGCONT)
                summary = training.summary()
            assert late.wait(120) == 0
        finally:
            late.kill()
    written = [path for path in run.storage.sizes() if f"/{name}/" in path and path not in before]
    finals = [run.storage.verify(run.paths.final(0, found.name)) for found in look.tries(0)]
    record_property("files that it still wrote", len(written))
    record_property("commits, all whole", check_whole(config.run))
    assert summary.done == (0,)
    assert len(finals) == 2
    assert {final.files["model.safetensors"].sha256 for final in finals} == {source.hashes[0]}
    assert hashes(config.run, summary.done) == {0: source.hashes[0]}
    record_property("same bits", True)
