"""Machines that are lost, drained or told to go, and worlds without one."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from chaos.looking import INTERVAL, REPORTS, Look, hashes
from chaos.training import WORLDS, Source, Training
from chaos.waiting import wait_for
from tests.cluster.machines import SMALL, Machines

PLACE_WITHIN = 5.0
"""Seconds."""
WAITING = 20.0
"""Seconds; longer than a busy machine takes to start a process."""


def moved(
    source: Source, folder: Path, act: Callable[[Look], None], record_property: Any
) -> list[int]:
    """Train, act once world 1 trains, and check that it moved; return its steps done twice."""
    config, look = source.config(folder / "run"), Look(folder / "run")
    with Training(config) as training:
        wait_for("all to train", lambda: all(look.running(w, step=60) for w in range(WORLDS)))
        act(look)
        summary = training.summary()
    assert summary.done == tuple(range(WORLDS)), summary
    assert [look.causes(world) for world in (0, 1, 2)] == [
        ["done"],
        ["preemption", "done"],
        ["done"],
    ]
    first, second = look.run.state(1).attempts
    assert first.node != second.node
    assert hashes(config.run, summary.done) == source.hashes
    (twice,) = look.done_twice(1)
    record_property("counted as", first.cause)
    record_property("steps done twice", twice)
    record_property("same bits", True)
    return [twice]


@pytest.mark.case(
    fault="a node killed hard",
    wanted="counted as preemption, not as error; moved; same bits",
)
def test_a_machine_that_is_lost(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    def lose(look: Look) -> None:
        machines.remove(machines.full_id(look.run.state(1).attempts[0]))
        machines.complete()

    (twice,) = moved(source, tmp_path, lose, record_property)
    assert twice <= 2 * INTERVAL + REPORTS


@pytest.mark.case(
    fault="a node drained with a deadline that leaves time for a checkpoint",
    wanted="counted as preemption; moved; nothing is lost; same bits",
)
def test_a_machine_that_is_drained(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    def drain(look: Look) -> None:
        machines.drain(machines.full_id(look.run.state(1).attempts[0]), seconds=120.0)
        machines.complete()

    assert moved(source, tmp_path, drain, record_property) == [0]


@contextmanager
def joined(address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Join the cluster with one more machine, by `ray start --block`."""
    program = str(Path(sysconfig.get_path("scripts"), "ray"))
    options = ["--num-cpus=1", "--num-gpus=1", f"--object-store-memory={SMALL}"]
    ports = ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
    command = [program, "start", f"--address={address}", "--block", *options, *ports]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def alive() -> set[str]:
    """Return the ids of the machines that are alive."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}


@pytest.mark.case(
    fault="SIGTERM to `ray start --block`",
    wanted="counted as preemption; moved; nothing is lost; same bits",
)
def test_a_machine_that_is_told_to_go(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    machines.remove(next(iter(machines.nodes)))
    before = alive()
    with joined(source.address) as process:
        (new,) = wait_for("the machine to join", lambda: alive() - before)
        config, look = source.config(tmp_path / "run"), Look(tmp_path / "run")

        def on_it() -> list[int]:
            states = look.run.states()
            return [
                state.index
                for state in states
                if state.attempts and f"({new[:8]})" in str(state.attempts[-1].node)
            ]

        with Training(config) as training:
            wait_for("all to train", lambda: all(look.running(w, step=60) for w in range(WORLDS)))
            (world,) = on_it()
            process.send_signal(signal.SIGTERM)
            machines.complete()
            summary = training.summary()
        began = time.monotonic()
        process.wait(90)
        record_property("seconds that it stayed after the run", time.monotonic() - began)
    first, second = look.run.state(world).attempts
    record_property("counted as", first.cause)
    record_property("steps done twice", look.done_twice(world)[0])
    assert summary.done == tuple(range(WORLDS)), summary
    assert (first.cause, second.cause) == ("preemption", "done")
    assert first.node != second.node
    assert look.done_twice(world) == [0]
    assert hashes(config.run, summary.done) == source.hashes
    record_property("same bits", True)


def signal_all(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


class Other:
    """Another program's actor."""

    def here(self) -> bool:
        """Return as soon as it is there."""
        return True


@pytest.mark.case(
    fault="a world that cannot be placed, because another program has the GPU",
    wanted="a message within `pending_timeout`; the others run; same bits",
)
def test_a_world_without_a_place(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    other: Any = ray.remote(num_cpus=0, num_gpus=1)(Other).remote()
    ray.get(other.here.remote())
    config = source.config(tmp_path / "run", f"cluster.pending_timeout={WAITING}")
    look = Look(tmp_path / "run")

    def training_now() -> list[int] | None:
        found = [look.running(world) for world in range(WORLDS)]
        processes = [item.process for item in found if item]
        return processes if len(processes) == WORLDS - 1 else None

    with Training(config) as training:
        wait_for("an attempt", lambda: look.tries(0) or look.tries(1))
        began = time.monotonic()
        others = wait_for("two to train", training_now)
        # So that they last until it is told.
        signal_all(others, signal.SIGSTOP)
        (told,) = wait_for("a word of it", lambda: list(training.told))
        record_property("seconds from the first start to the message", time.monotonic() - began)
        signal_all(others, signal.SIGCONT)
        ray.kill(other)
        summary = training.summary()
    record_property("told", told)
    assert "a world needs 1 CPUs and 1 GPUs on one machine, and there is" in told
    assert summary.done == tuple(range(WORLDS)), summary
    assert [len(look.tries(world)) for world in range(WORLDS)] == [1] * WORLDS
    assert hashes(config.run, summary.done) == source.hashes
    record_property("same bits", True)


@pytest.mark.case(
    fault="worlds of which no machine has room for even one",
    wanted="the run gives up with a message within `pending_timeout`",
)
def test_worlds_without_any_place(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    config = source.config(
        tmp_path / "run", f"cluster.pending_timeout={PLACE_WITHIN}", "cluster.gpus_per_world=2"
    )
    began = time.monotonic()
    with Training(config) as training:
        summary = training.summary()
    seconds = time.monotonic() - began
    record_property("seconds", seconds)
    record_property("told", summary.error)
    assert summary.pending == tuple(range(WORLDS))
    assert "expected room for a world within 5 s, found none: a world needs 1 CPUs and 2 GPUs" in (
        str(summary.error)
    )
    assert seconds < PLACE_WITHIN + 10.0
