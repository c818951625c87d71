"""How fast worlds train and write on this machine: a little of them, side by side as in a run."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, NamedTuple

import torch

from orchestrator.config import RunConfig
from orchestrator.executors.room import Machine, demand_of
from workers.checkpoints import Checkpoints
from workers.config import WorldConfig
from workers.errors import ManyworldsError, RunError, StorageError
from workers.log import AttemptLog
from workers.storage import RunPaths, Storage
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
    lost_seconds: float
    """That a checkpoint takes from the training, which goes on beside it."""
    write_seconds: float
    """Of a checkpoint when the training is over."""


def calibrate(config: RunConfig, *, at_once: int, threads: int, seconds: float) -> Pace:
    """Train the first worlds of a run for some seconds, side by side, and return their pace.

    Then each writes a checkpoint, where the run would, and trains on beside that, and a last one
    when it trains no more. Nothing of it is kept.

    Args:
        config: of the run.
        at_once: how many worlds.
        threads: of each; 0: one for each CPU.
        seconds: for how long, without their start and their checkpoints.

    Raises:
        ManyworldsError: what ends a world at its start, such as data that cannot be trained on.
        StorageError: a checkpoint could not be written there.
        RunError: a process ended before its pace was known.
    """
    world = config.world_config()
    world = replace(world, runtime=replace(world.runtime, threads=threads))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(at_once)
    processes, found = [], []
    began = time.monotonic()
    with _scratch(config.run) as scratch:
        try:
            for index in range(at_once):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_train,
                    args=(world, index, scratch, seconds, barrier, theirs),
                    daemon=True,
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
    return Pace(
        at_once=at_once,
        threads=threads,
        start_seconds=max(one.first for one in found) - began,
        step_seconds=sum(one.step for one in found) / at_once,
        lost_seconds=sum(one.lost for one in found) / at_once,
        write_seconds=sum(one.write for one in found) / at_once,
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


class _Times(NamedTuple):
    # Of one world.
    first: float
    """When the first step ended, on the clock of all processes."""
    step: float
    """Seconds; these and those that follow."""
    lost: float
    """To a checkpoint that was written beside steps."""
    write: float
    """Of one that was not."""


@contextmanager
def _scratch(run: str) -> Iterator[str]:
    """Give a folder on the storage of a run, which goes afterwards, and leave no other behind."""
    storage, name = Storage(run), f".manyworlds-plan-{uuid.uuid4().hex[:8]}"
    base, mark, query = storage.uri.partition("?")
    beside = f"{base.rpartition('/')[0]}{mark}{query}"
    if storage.is_local:
        # Folders that are not there yet would stay.
        beside = str(next(folder for folder in Path(storage.uri).parents if folder.is_dir()))
    home = Storage(beside)
    try:
        yield home.where(name)
    finally:
        home.delete(name)


def _received(connection: Connection) -> _Times:
    try:
        answer = connection.recv()
    except EOFError:
        raise RunError(
            "expected the pace of a world, found its process gone: it may have run out of memory;"
            " try fewer buckets, or plan without measuring: --calibrate 0"
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return _Times(*answer)


def _train(
    config: WorldConfig,
    index: int,
    scratch: str,
    seconds: float,
    barrier: Barrier,
    answer: Connection,
) -> None:
    """Send the times of a world, or what ended it."""
    paths = RunPaths(Storage(scratch))
    try:
        with (
            closing(World(config, index)) as world,
            closing(AttemptLog(paths, index, "plan")) as log,
            closing(Checkpoints(paths, "plan", log, lambda: None)) as checkpoints,
        ):
            pace = _Stopwatch(
                seconds,
                barrier,
                begin=lambda: checkpoints.offer(world),
                busy=lambda: checkpoints.busy,
            )
            with suppress(Stopped):
                world.train(stop=pace)
            times = pace.result(checkpoints.wait)
            if pace.beside:
                began = time.monotonic()
                checkpoints.last(world)
                times = times._replace(write=time.monotonic() - began)
            if checkpoints.trouble:
                raise StorageError(checkpoints.trouble)
    except ManyworldsError as error:
        barrier.abort()
        answer.send(error)
        return
    answer.send(tuple(times))


class _Stopwatch:
    """Asked between two steps whether to stop; notes when, and has a checkpoint written.

    Args:
        seconds: to go on for after the first steps, before the checkpoint.
        barrier: at which worlds wait for each other before that.
        begin: writes the checkpoint beside the steps that follow.
        busy: whether it is still being written.
        clock: seconds.
    """

    def __init__(
        self,
        seconds: float,
        barrier: Any,
        *,
        begin: Callable[[], object],
        busy: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._barrier = barrier
        self._begin = begin
        self._busy = busy
        self._clock = clock
        self._times: list[float] = []
        self._warm = 0
        self._began: float | None = None
        self._written: float | None = None
        self.beside = 0
        """Steps that were made while the checkpoint was written."""

    def __call__(self) -> bool:
        if self._began is not None:
            self.beside += 1
            if not self._busy():
                self._written = self._clock()
            return self._written is not None
        self._times.append(self._clock())
        if len(self._times) == _WARM_UP:
            with suppress(BrokenBarrierError):
                self._barrier.wait(_PATIENCE)
            self._times[-1] = self._clock()
            self._warm = len(self._times) - 1
        since = len(self._times) - 1 - self._warm
        if self._warm and since and self._times[-1] - self._times[self._warm] > self._seconds:
            self._write()
        return False

    def result(self, wait: Callable[[], object]) -> _Times:
        """Return what was noted; `write` is of the checkpoint that was written beside steps.

        Args:
            wait: returns when nothing is being written.
        """
        if self._began is None:
            self._write()
        if self._written is None:
            wait()
            self._written = self._clock()
        times = self._times[self._warm :]
        step = (times[-1] - times[0]) / max(1, len(times) - 1)
        write = self._written - (self._began or 0.0)
        first = self._times[min(1, len(self._times) - 1)]
        return _Times(first, step, max(0.0, write - self.beside * step), write)

    def _write(self) -> None:
        self._began = self._clock()
        self._begin()
