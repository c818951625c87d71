"""How many worlds a machine has room for, and what each of them gets of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

_CPUS_A_WORLD = 4


@dataclass(frozen=True, slots=True)
class Demand:
    """What one world needs, on one machine."""

    cpus: int
    gpus: float
    """Below 1: a share of one GPU; else a whole number."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine offers to all worlds together."""

    cpus: float
    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)

    def room(self, demand: Demand) -> int:
        """Return how many worlds fit at the same time."""
        by_cpus = int(self.cpus // demand.cpus)
        return by_cpus if demand.gpus == 0 else min(by_cpus, self.share(demand.gpus))

    def share(self, gpus: float) -> int:
        """Return how many worlds fit by their GPUs; a part of a GPU is of one GPU alone."""
        if gpus < 1:
            return int(self.gpus) * int(1 / gpus)
        return int(self.gpus // gpus)


def demand_of(
    worlds: int,
    found: Sequence[Machine],
    *,
    gpus: float | Literal["auto"],
    cpus: int | Literal["auto"],
) -> Demand:
    """Return what each world gets, `auto` resolved.

    A world gets one GPU where there are any, and the CPUs of a machine in equal parts for
    each world that fits on it by GPUs. On CPUs alone, as many worlds share a machine as
    leave each at least four CPUs, but no fewer than two: one starts while another trains.

    Args:
        worlds: of the run.
        found: the machines.
        gpus: of each world.
        cpus: of each world.
    """
    if gpus == "auto":
        gpus = 1 if any(machine.gpus >= 1 for machine in found) else 0
    if cpus != "auto":
        return Demand(cpus, gpus)
    useful = [item for item in found if item.cpus >= 1 and (gpus == 0 or item.share(gpus))]
    each = -(-worlds // max(1, len(useful)))
    return Demand(min((_cpus(item, gpus, each) for item in useful), default=1), gpus)


def _cpus(machine: Machine, gpus: float, worlds: int) -> int:
    if gpus:
        sharing = machine.share(gpus)
    else:
        sharing = min(worlds, max(2, int(machine.cpus) // _CPUS_A_WORLD))
    return max(1, int(machine.cpus) // max(1, sharing))
