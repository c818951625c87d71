"""Where a run fits, how long it takes there, and what that costs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.config import RunConfig
from orchestrator.executors.room import Machine, demand_of
from orchestrator.plan.calibration import Pace
from orchestrator.plan.machines import MachineType
from orchestrator.plan.roofline import work_of
from orchestrator.plan.size import Data, Size, size_of

START_SECONDS = 30.0
"""Of a world on a machine that nobody measured: a process, its libraries, the first rows."""
RAY_SECONDS = 5.0
"""Until Ray has started its first actor."""
LIBRARIES = 500_000_000
"""Bytes of Python and its libraries, of each world."""
_MEMORY_SHARE = 0.9
"""Of a device's memory that worlds may take."""
_ROUNDING = 1e-9
"""Of hours."""
_FORWARD_SHARE = 1 / 3
"""Of a training step's products that answers take."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A run on machines of one type."""

    machine: str
    machines: int
    trouble: str
    """Why it does not fit; empty: it does."""
    at_once: int
    """Worlds that train at the same time, on all machines together."""
    world_hours: float
    """Of one world."""
    hours: float
    """Of all worlds."""
    on_demand: float
    """What the machines cost in that time."""
    spot: float | None
    """The same for machines that may be taken back; without what they then lose."""
    source: Literal["measured", "roofline"]


def on_machines(config: RunConfig, data: Data, machine: MachineType, machines: int = 1) -> Estimate:
    """Return what a run takes on machines of a type, by roofline.

    A world has a GPU of its own, or on CPUs a part of a machine, which is the larger the more
    machines there are.
    """
    config = _as_there(config, machine)
    size = size_of(config, data, on_gpu=machine.gpus > 0)
    each = _worlds_on(machine, config.worlds, machines)
    part = 1.0 if machine.gpus else 1 / each
    work = work_of(config, data, bf16=config.training.precision == "bf16")
    step = work.seconds(tflops=machine.tflops * part, bandwidth=machine.bandwidth * part)
    seconds = world_seconds(config, size, start=START_SECONDS, step=step)
    return _estimate(
        machine,
        machines,
        worlds=config.worlds,
        at_once=min(config.worlds, each * machines),
        seconds=seconds,
        trouble=_trouble(size, machine, each),
    )


def machines_for(
    config: RunConfig, data: Data, machine: MachineType, target_hours: float
) -> Estimate | None:
    """Return a run on as few machines of a type as end it in time; None: none do.

    More machines than one for each world bring nothing.
    """
    limit = target_hours * (1 + _ROUNDING)
    most = on_machines(config, data, machine, config.worlds)
    if most.trouble:
        return most
    if most.hours > limit:
        return None

    def ends(machines: int) -> bool:
        found = on_machines(config, data, machine, machines)
        return not found.trouble and found.hours <= limit

    least = 1 + bisect_left(range(1, config.worlds), True, key=ends)
    return on_machines(config, data, machine, least)


def here(config: RunConfig, size: Size, paces: Sequence[Pace]) -> Estimate:
    """Return what a run takes on this machine, as measured.

    Worlds train in turns; the last turn may be of fewer worlds, which then have more of the
    machine. The merge copies every world's weights, one after the other.

    Args:
        config: of the run.
        size: of the run.
        paces: of a full turn, and of the last one if it is not full.
    """
    each = [_measured_seconds(config, size, pace) for pace in paces]
    full = paces[0]
    turns = (config.worlds // full.at_once) * each[0] + sum(each[1:])
    ray = 0.0 if config.cluster.address == "none" else RAY_SECONDS
    merge = config.worlds * full.write_seconds
    return Estimate(
        machine="this machine",
        machines=1,
        trouble="",
        at_once=full.at_once,
        world_hours=each[0] / 3600,
        hours=(ray + turns + merge) / 3600,
        on_demand=0.0,
        spot=None,
        source="measured",
    )


def _measured_seconds(config: RunConfig, size: Size, pace: Pace) -> float:
    """Return the seconds of one world, its checkpoints and its final weights among them."""
    checkpoints = (size.steps - 1) // config.runtime.checkpoint_steps
    written = checkpoints * pace.lost_seconds + pace.write_seconds
    return written + world_seconds(config, size, start=pace.start_seconds, step=pace.step_seconds)


def one_vs_all(config: RunConfig, data: Data, machine: MachineType) -> Estimate:
    """Return what one network with an output for each of `config`'s K classes takes, by roofline.

    Of one machine, its layers split over all of its GPUs at no cost, which flatters it.
    """
    config = _as_there(config, machine)
    size = size_of(config, data, on_gpu=machine.gpus > 0)
    devices = max(1, machine.gpus)
    work = work_of(config, data, bf16=config.training.precision == "bf16")
    step = work.seconds(tflops=machine.tflops * devices, bandwidth=machine.bandwidth * devices)
    needed = size.memory.device if machine.gpus else size.memory.total
    room = 1e9 * (machine.gpu_memory * machine.gpus or machine.memory)
    return _estimate(
        machine,
        1,
        worlds=1,
        at_once=1,
        seconds=world_seconds(config, size, start=START_SECONDS, step=step),
        trouble=_lacking("memory", needed, room),
    )


def world_seconds(config: RunConfig, size: Size, *, start: float, step: float) -> float:
    """Return the seconds of one world: its start, its steps, and answers after every epoch."""
    looks = 0.0
    if config.data.validation is not None:
        batches = config.data.validation_rows / config.training.batch_size
        looks = _FORWARD_SHARE * batches * config.training.epochs
    return start + (size.steps + looks) * step


def _as_there(config: RunConfig, machine: MachineType) -> RunConfig:
    """Return the config with the precision that `auto` is on a machine."""
    bf16 = machine.bf16 and config.training.precision != "fp32"
    precision: Literal["bf16", "fp32"] = "bf16" if bf16 else "fp32"
    return replace(config, training=replace(config.training, precision=precision))


def _worlds_on(machine: MachineType, worlds: int, machines: int) -> int:
    """Return how many worlds train side by side on each of some machines, at most."""
    offered = Machine(cpus=machine.cpus, gpus=machine.gpus)
    demand = demand_of(worlds, [offered] * machines, gpus="auto", cpus="auto")
    return max(1, min(-(-worlds // machines), offered.room(demand)))


def _trouble(size: Size, machine: MachineType, each: int) -> str:
    """Return what a machine lacks for so many worlds of its own; empty: nothing."""
    memory = size.memory
    if machine.gpus and (lacking := _lacking("GPU", memory.device, 1e9 * machine.gpu_memory)):
        return lacking
    host = (memory.host if machine.gpus else memory.total) + LIBRARIES
    return _lacking("memory", each * host, 1e9 * machine.memory)


def _lacking(what: str, needed: float, room: float) -> str:
    if needed <= _MEMORY_SHARE * room:
        return ""
    return f"{what}: {needed / 1e9:,.1f} of {room / 1e9:,.0f} GB"


def _estimate(
    machine: MachineType,
    machines: int,
    *,
    worlds: int,
    at_once: int,
    seconds: float,
    trouble: str,
) -> Estimate:
    hours = math.ceil(worlds / at_once) * seconds / 3600
    return Estimate(
        machine=machine.name,
        machines=machines,
        trouble=trouble,
        at_once=at_once,
        world_hours=seconds / 3600,
        hours=hours,
        on_demand=hours * machines * machine.on_demand,
        spot=None if machine.spot is None else hours * machines * machine.spot,
        source="roofline",
    )
