"""How fast worlds train on this machine: some steps of them, side by side as in a run."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any

import torch

from orchestrator.config import RunConfig
from orchestrator.executors.room import Machine, demand_of
from workers.config import WorldConfig
from workers.errors import ManyworldsError, RunError
from workers.world import Stopped, World

_WARM_UP = 5
"""Steps before the pace is taken: kernels are compiled, and memory is found."""
_PATIENCE = 600.0
"""Seconds within which every world must have made its first steps."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast worlds train side by side."""

    at_once: int
    """Worlds that trained side by side."""
    threads: int
    """Of each; 0: one for each CPU."""
    start_seconds: float
    """From nothing to the end of the first step: a process, its libraries, the first rows."""
    step_seconds: float
    """Of a step, with what it waits for its rows."""


def calibrate(config: RunConfig, *, at_once: int, threads: int, seconds: float) -> Pace:
    """Train the first worlds of a run for some seconds, side by side, and return their pace.

    Nothing of it is kept.

    Args:
        config: of the run.
        at_once: how many worlds.
        threads: of each; 0: one for each CPU.
        seconds: for how long, without their start.

    Raises:
        ManyworldsError: what ends a world at its start, such as data that cannot be trained on.
        RunError: a process ended before its pace was known.
    """
    world = config.world_config()
    world = replace(world, runtime=replace(world.runtime, threads=threads))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(at_once)
    processes, found = [], []
    began = time.monotonic()
    try:
        for index in range(at_once):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_train, args=(world, index, seconds, barrier, theirs), daemon=True
            )
            process.start()
            theirs.close()
            processes.append((process, ours))
        for _, ours in processes:
            found.append(_received(ours))
    finally:
        for process, _ in processes:
            process.terminate()
            process.join()
    firsts, steps = zip(*found, strict=True)
    return Pace(
        at_once=at_once,
        threads=threads,
        start_seconds=max(firsts) - began,
        step_seconds=sum(steps) / len(steps),
    )


def room_here(config: RunConfig) -> tuple[int, int]:
    """Return how many worlds train here side by side, and the threads of each.

    As a run would do it with this machine alone for a cluster; 0 threads: one for each CPU.
    """
    if config.cluster.address == "none":
        return 1, config.runtime.threads
    machine = Machine(
        cpus=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        gpus=torch.cuda.device_count() if config.runtime.device != "cpu" else 0,
    )
    cluster = config.cluster
    demand = demand_of(
        config.worlds, [machine], gpus=cluster.gpus_per_world, cpus=cluster.cpus_per_world
    )
    room = max(1, min(config.worlds, machine.room(demand)))
    return min(room, cluster.max_parallel or room), demand.cpus


def _received(connection: Connection) -> tuple[float, float]:
    try:
        answer = connection.recv()
    except EOFError:
        raise RunError(
            "expected the pace of a world, found its process gone: it may have run out of memory;"
            " try fewer buckets, or plan without measuring: --calibrate 0"
        ) from None
    if isinstance(answer, Exception):
        raise answer
    first, step = answer
    return first, step


def _train(
    config: WorldConfig, index: int, seconds: float, barrier: Barrier, answer: Connection
) -> None:
    """Send when the first step ended, on the clock of all processes, and the seconds of a step."""
    pace = _Stopwatch(seconds, barrier)
    try:
        world = World(config, index)
        with suppress(Stopped):
            world.train(stop=pace)
    except ManyworldsError as error:
        barrier.abort()
        answer.send(error)
        return
    answer.send(pace.result())


class _Stopwatch:
    """Asked between two steps whether to stop; notes when.

    Args:
        seconds: to go on for after the first steps.
        barrier: at which worlds wait for each other before that.
    """

    def __init__(
        self, seconds: float, barrier: Any, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._barrier = barrier
        self._clock = clock
        self._times: list[float] = []
        self._warm: int | None = None

    def __call__(self) -> bool:
        self._times.append(self._clock())
        if len(self._times) == _WARM_UP:
            with suppress(BrokenBarrierError):
                self._barrier.wait(_PATIENCE)
            self._times[-1] = self._clock()
            self._warm = len(self._times) - 1
        if self._warm is None or len(self._times) - 1 == self._warm:
            return False
        return self._times[-1] - self._times[self._warm] > self._seconds

    def result(self) -> tuple[float, float]:
        """Return when the first step ended, and the seconds of a step."""
        times = self._times[self._warm or 0 :]
        each = (times[-1] - times[0]) / max(1, len(times) - 1)
        return self._times[min(1, len(self._times) - 1)], each
