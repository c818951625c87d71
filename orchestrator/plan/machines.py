"""Types of machines that can be rented: what they have, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import presets, schema
from workers.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MachineType:
    """A type of machine."""

    name: str = ""
    """By which its cloud rents it."""
    gpu: str | None = None
    """Model of its GPUs; null: it has none."""
    gpus: int = 0
    gpu_memory: float = 0.0
    """10^9 bytes of each GPU."""
    cpus: int = 1
    """As its cloud counts them."""
    memory: float = 0.0
    """10^9 bytes."""
    tflops: float = 0.0
    """Peak of matrix products, in 10^12 operations a second, of each GPU, or of all CPUs: in bf16
    where the device has it, else in fp32."""
    bf16: bool = True
    """Whether the device has products in bf16."""
    bandwidth: float = 0.0
    """Peak of memory traffic, in 10^9 bytes a second, of each GPU, or of all CPUs."""
    on_demand: float = 0.0
    """Price of an hour."""
    spot: float | None = None
    """Price of an hour, of a machine that may be taken back; null: there are none."""

    def problems(self) -> list[str]:
        """Return one sentence for each value that cannot be."""
        found = []
        for name in ("cpus", "memory", "tflops", "bandwidth", "on_demand"):
            if not getattr(self, name) > 0:
                found.append(f"{name}: expected a positive number, found {getattr(self, name)}")
        if (self.gpu is not None) != (self.gpus > 0) or (self.gpus > 0) != (self.gpu_memory > 0):
            found.append("gpu, gpus, gpu_memory: expected all of them or none")
        if self.spot is not None and not self.spot > 0:
            found.append(f"spot: expected null or a positive number, found {self.spot}")
        return found


def read_machines(path: str | None = None) -> list[MachineType]:
    """Return the types of machines of a YAML file, by name; None: of `conf/machines.yaml`.

    Raises:
        ConfigError: with one line for each problem of all of them together.
    """
    source = Path(path) if path else presets.machines()
    found, problems = [], []
    for name, values in presets.read_yaml(source).items():
        machine, wrong = _machine(name, values)
        problems += [f"{source}: {name}.{problem}" for problem in wrong]
        found.append(machine)
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _machine(name: str, values: Any) -> tuple[MachineType, list[str]]:
    if not isinstance(values, Mapping):
        return MachineType(), ["expected `key: value` lines below it, found none"]
    built = schema.build(MachineType, [schema.Layer("", {**values, "name": name})])
    machine = built.value or MachineType()
    return machine, built.problems or machine.problems()
