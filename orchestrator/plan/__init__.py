"""What a run will take, before any of it is spent, and what more worlds would bring."""

from orchestrator.plan.bounds import (
    CONFUSION,
    DEVIATION,
    Bounds,
    bounds,
    buckets_for,
    collision,
    confusion,
    deviation,
)
from orchestrator.plan.calibration import Pace, calibrate, room_here
from orchestrator.plan.estimates import Estimate, here, machines_for, on_machines, one_vs_all
from orchestrator.plan.growth import Gain, gains, world_hours
from orchestrator.plan.job import Plan, plan
from orchestrator.plan.machines import MachineType, read_machines
from orchestrator.plan.size import Data, Size, expects_gpus, parameters, size_of

__all__ = [
    "CONFUSION",
    "DEVIATION",
    "Bounds",
    "Data",
    "Estimate",
    "Gain",
    "MachineType",
    "Pace",
    "Plan",
    "Size",
    "bounds",
    "buckets_for",
    "calibrate",
    "collision",
    "confusion",
    "deviation",
    "expects_gpus",
    "gains",
    "here",
    "machines_for",
    "on_machines",
    "one_vs_all",
    "parameters",
    "plan",
    "read_machines",
    "room_here",
    "size_of",
    "world_hours",
]
