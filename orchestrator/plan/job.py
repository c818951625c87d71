"""A plan: B and R, what they take, and where, when and for how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.config import RunConfig
from orchestrator.plan.bounds import CONFUSION, DEVIATION, Bounds, bounds, buckets_for
from orchestrator.plan.calibration import Pace, calibrate, room_here
from orchestrator.plan.estimates import Estimate, here, machines_for, on_machines, one_vs_all
from orchestrator.plan.machines import MachineType
from orchestrator.plan.size import Data, Size, size_of

_OFFERED = (1 / 4, 1 / 2, 1, 2)
"""Numbers of buckets beside the chosen one, as its multiples."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would be."""

    config: RunConfig
    """With the B and R that the plan chose, where they were not given."""
    chosen: Bounds
    offered: tuple[Bounds, ...]
    """The same K with other numbers of buckets, and the worlds that keep the bounds then."""
    size: Size
    paces: tuple[Pace, ...]
    """Measured here: of as many worlds as train at once, and of those of the last turn if they
    are fewer; empty: nothing was."""
    estimates: tuple[Estimate, ...]
    """This machine first, if its pace was measured, then the types of machines."""
    whole: Size
    """Of one network with an output for every class."""
    whole_estimates: tuple[Estimate, ...]
    """Of that one, by type of machine."""


def plan(
    config: RunConfig,
    data: Data,
    machines: Sequence[MachineType],
    *,
    given: Sequence[str] = (),
    most_confusion: float = CONFUSION,
    most_deviation: float = DEVIATION,
    seconds: float = 0.0,
    target_hours: float | None = None,
) -> Plan:
    """Return what a run takes.

    Args:
        config: all settings.
        data: the training data, read or told.
        machines: types to reckon with.
        given: `worlds` and `partition.buckets`, as far as the user chose them.
        most_confusion: the bound on the chance that any two classes share all of their buckets.
        most_deviation: the bound on the standard deviation of a class's probability.
        seconds: for how long worlds are trained here to measure their pace; 0: not at all.
        target_hours: as many machines of each type as end the run in that time; None: one.

    Raises:
        ManyworldsError: what ends a world at its start, if the pace is measured.
    """
    classes, kind = config.data.classes, config.partition.kind

    def bound(buckets: int, worlds: int | None) -> Bounds:
        return bounds(
            classes,
            buckets,
            worlds,
            kind=kind,
            most_confusion=most_confusion,
            most_deviation=most_deviation,
        )

    buckets = config.partition.buckets if "partition.buckets" in given else buckets_for(classes)
    chosen = bound(buckets, config.worlds if "worlds" in given else None)
    config = _with(config, chosen.buckets, chosen.worlds)
    size = size_of(config, data)
    paces = _paces(config, seconds) if seconds else ()
    whole = _with(config, classes, 1)
    others = sorted({min(classes, max(2, round(buckets * times))) for times in _OFFERED})
    return Plan(
        config=config,
        chosen=chosen,
        offered=tuple(bound(other, None) for other in others),
        size=size,
        paces=paces,
        estimates=(
            *([here(config, size, paces)] if paces else []),
            *_estimates(config, data, machines, target_hours),
        ),
        whole=size_of(whole, data),
        whole_estimates=tuple(one_vs_all(whole, data, machine) for machine in machines),
    )


def _paces(config: RunConfig, seconds: float) -> tuple[Pace, ...]:
    at_once, threads = room_here(config)
    turns = [at_once] + ([rest] if (rest := config.worlds % at_once) else [])
    return tuple(
        calibrate(config, at_once=worlds, threads=threads, seconds=seconds) for worlds in turns
    )


def _estimates(
    config: RunConfig, data: Data, machines: Sequence[MachineType], target_hours: float | None
) -> list[Estimate]:
    if target_hours is None:
        return [on_machines(config, data, machine) for machine in machines]
    found = [machines_for(config, data, machine, target_hours) for machine in machines]
    return [estimate for estimate in found if estimate]


def _with(config: RunConfig, buckets: int, worlds: int) -> RunConfig:
    return replace(config, worlds=worlds, partition=replace(config.partition, buckets=buckets))
