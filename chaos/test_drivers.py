"""Drivers that are killed, two of them on one run, and clocks that disagree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.looking import INTERVAL, Look, check_whole, hashes
from chaos.training import ENVIRONMENT, WORLDS, Command, Source, Training, command, is_there
from chaos.waiting import wait_for
from orchestrator import api
from orchestrator.lease import TERM, owner_of
from tests.cluster.machines import Machines
from workers.errors import RunError
from workers.storage import RunPaths

CARRIES_ON = 10.0
"""Seconds, on a machine that takes `IMPORTS_TAKE` seconds for the imports; more on a busier one."""
IMPORTS_TAKE = 3.0
IMPORTS = "import ray, orchestrator.api, orchestrator.executors.ray"
HOUR = 3600


def seconds_to_import() -> float:
    """Return how long an interpreter takes on this machine to import what a driver needs."""
    began = time.monotonic()
    environment = {**os.environ, **ENVIRONMENT}
    subprocess.run([sys.executable, "-c", IMPORTS], env=environment, check=True)
    return time.monotonic() - began


def drives(look: Look, driver: Command) -> bool:
    owner = owner_of(look.run.storage)
    return owner is not None and owner.pid == driver.pid


@pytest.mark.case(
    fault="SIGKILL of the driver, then the same command again on that host",
    wanted="GPUs freed; carries on within 10 s; no finished world retrained; same bits",
)
def test_a_driver_that_is_killed_is_followed_by_the_same_command(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    look = Look(tmp_path / "run")
    # Two at a time: one world at least is done when the driver dies.
    words = ["train", *source.words(tmp_path / "run", "cluster.max_parallel=2")]
    with command(tmp_path / "first.txt", *words) as first:
        wait_for("world 2 to train", lambda: look.running(2, step=50))
        os.kill(first.pid, signal.SIGKILL)
        died = time.monotonic()
        first.code()
    states = look.run.states()
    done = [state.index for state in states if state.status == "done"]
    left = [world for world in range(WORLDS) if world not in done]
    dead = [look.tries(world)[-1].process for world in left]
    wait_for("the dead driver's worlds to go", lambda: not any(map(is_there, dead)))
    freed = time.monotonic() - died
    imports = seconds_to_import()
    began = time.monotonic()
    with command(tmp_path / "second.txt", *words) as second:
        wait_for("the second driver", lambda: drives(look, second))
        leased = time.monotonic() - began
        wait_for("a world to go on", lambda: any(look.running(w, number=2) for w in left))
        carried_on = time.monotonic() - began
        assert second.code() == 0, second.output
    record_property("worlds done before", len(done))
    record_property("seconds until the GPUs were free", freed)
    record_property("seconds from the command to a world that goes on", carried_on)
    record_property("of which to the lease", leased)
    record_property("seconds that its imports alone take", imports)
    assert done, "expected a world that was done before"
    assert [look.run.state(world) for world in done] == [states[world] for world in done]
    assert [len(look.tries(world)) for world in done] == [1] * len(done)
    assert hashes(str(look.folder), range(WORLDS)) == source.hashes
    record_property("same bits", True)
    check_whole(str(look.folder))
    assert carried_on < CARRIES_ON * max(1.0, imports / IMPORTS_TAKE)


@pytest.mark.case(
    fault="two drivers on one run; the second is then forced with --take-over",
    wanted="the second refuses and names the first; no file is spoilt; same bits",
)
def test_two_drivers_on_one_run_spoil_nothing(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    look = Look(tmp_path / "run")
    words = source.words(tmp_path / "run", "cluster.max_parallel=1")
    with command(tmp_path / "first.txt", "train", *words) as first:
        wait_for("world 0 to train", lambda: look.running(0, step=10))
        config = source.config(tmp_path / "run", "cluster.max_parallel=2")
        with pytest.raises(RunError, match=rf"found a driver: process {first.pid} on \S+, since"):
            api.train(config)
        with Training(config, take_over=True) as second:
            summary = second.summary()
        assert first.code() == 2, first.output
        assert "found another driver" in first.output
    assert summary.done == tuple(range(WORLDS))
    assert hashes(config.run, summary.done) == source.hashes
    record_property("attempts", [len(look.tries(world)) for world in range(WORLDS)])
    record_property("commits, all whole", check_whole(config.run))
    record_property("same bits", True)


@pytest.fixture
def wrong_clocks(machines: Machines) -> Iterator[None]:
    """Set the clocks of two machines an hour ahead and behind, and put those back afterwards."""
    for ahead, node in zip((HOUR, -HOUR), list(machines.nodes), strict=False):
        machines.remove(node)
        machines.add(CHAOS_CLOCK_SECONDS=str(ahead))
    yield
    for node in list(machines.nodes):
        machines.remove(node)


@pytest.mark.case(
    fault="machines and drivers with clocks an hour ahead and an hour behind",
    wanted="lease and order still right; same bits",
)
def test_clocks_that_are_an_hour_off_change_nothing(
    wrong_clocks: None, source: Source, tmp_path: Path, record_property: Any
) -> None:
    look = Look(tmp_path / "run")
    words = source.words(tmp_path / "run")
    ahead_of_all = {"CHAOS_CLOCK_SECONDS": str(2 * HOUR)}
    behind = {"CHAOS_CLOCK_SECONDS": str(-2 * HOUR)}
    with command(tmp_path / "first.txt", "train", *words, environment=ahead_of_all) as first:
        wait_for("all to train", lambda: all(look.running(w, step=60) for w in range(WORLDS)))
        with pytest.raises(RunError, match=rf"found a driver: process {first.pid} "):
            api.train(source.config(tmp_path / "run"))
        os.kill(first.pid, signal.SIGKILL)
        first.code()
    storage = look.run.storage
    # As if that driver had been on another host, where nobody here can see that it is dead.
    storage.write_json(RunPaths.lease, {**storage.read_json(RunPaths.lease), "boot": "elsewhere"})
    began = time.monotonic()
    with command(tmp_path / "second.txt", "train", *words, environment=behind) as second:
        wait_for("the lease to lapse", lambda: drives(look, second))
        lapsed = time.monotonic() - began
        assert second.code() == 0, second.output
    stamps = [
        look.log(world, found.name)[:10] for world in range(WORLDS) for found in look.tries(world)
    ]
    assert hashes(str(look.folder), range(WORLDS)) == source.hashes
    twice = [steps for world in range(WORLDS) for steps in look.done_twice(world)]
    record_property("seconds until the lease of the dead driver lapsed", lapsed)
    record_property("steps done twice, at most", max(twice))
    record_property("same bits", True)
    assert len(stamps) == 2 * WORLDS
    assert lapsed >= TERM
    assert max(twice) <= 2 * INTERVAL
