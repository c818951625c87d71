"""What this machine offers and lacks for a run, one line each."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from workers.errors import ManyworldsError

PACKAGES = ("torch", "numpy", "pyarrow", "ray", "omegaconf", "safetensors", "numba", "rich")
SUPPORTED = ((3, 11), (3, 14))
"""Pythons: from the first, below the second."""
LEAST_MEMORY_GIB = 4


@dataclass(frozen=True)
class Check:
    """One line of the doctor."""

    name: str
    level: Literal["ok", "warn", "broken"]
    """`broken`: nothing can be trained here."""
    found: str
    advice: str = ""
    """What to do about it."""

    def line(self) -> str:
        """Return the check as one line of text."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.level:6} {self.name:12} {self.found}{advice}"


def checks(storage: str) -> Iterator[Check]:
    """Yield every check, the quick ones first; `storage` is a folder or URI to try to write to."""
    yield _python()
    yield from (_package(name) for name in PACKAGES)
    for check in (_cpus, _memory, _bf16, _gpus, _ray_cluster):
        yield _guarded(check)
    yield _storage(storage)


def _guarded(check: Callable[[], Check]) -> Check:
    """Return the check's result; one that stumbles over a broken package becomes a warning."""
    try:
        return check()
    except Exception as error:
        return Check(check.__name__.strip("_"), "warn", f"could not be looked at: {error}")


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    low, high = SUPPORTED
    if low <= sys.version_info[:2] < high:
        return Check("python", "ok", found)
    return Check("python", "warn", found, "tested with Python 3.11 to 3.13; use one of them")


def _package(name: str) -> Check:
    try:
        importlib.import_module(name)
        return Check(name, "ok", importlib.metadata.version(name))
    except Exception as error:
        return Check(
            name, "broken", f"cannot be imported ({error})", f"pip install --force-reinstall {name}"
        )


def _cpus() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("cpus", "ok", f"{usable} usable of {os.cpu_count()}")


def _memory() -> Check:
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page / 2**30
    free = os.sysconf("SC_AVPHYS_PAGES") * page / 2**30
    found = f"{total:.1f} GiB, {free:.1f} GiB free"
    if total >= LEAST_MEMORY_GIB:
        return Check("memory", "ok", found)
    advice = "keep partition.buckets, model.hidden and data.block_rows small"
    return Check("memory", "warn", found, advice)


def _bf16() -> Check:
    from workers.classifier import choose_bf16

    if choose_bf16("auto", "cpu"):
        return Check("bf16", "ok", "this CPU multiplies in bf16")
    return Check("bf16", "warn", "not in this CPU", "worlds on it train in fp32, more slowly")


def _gpus() -> Check:
    import torch

    if not torch.cuda.is_available():
        advice = "worlds on this machine train on its CPUs"
        return Check("gpus", "warn", "none that torch can use", advice)
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = [f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in devices]
    return Check("gpus", "ok", ", ".join(names))


def _ray_cluster() -> Check:
    from orchestrator.executors import cluster

    return Check("ray cluster", "ok", cluster.foretold("auto") or "this process is in one")


def _storage(uri: str) -> Check:
    from workers.storage import Storage

    name = f"manyworlds-doctor-{uuid.uuid4().hex}"
    try:
        storage = Storage(uri)
        storage.write_bytes(name, b"manyworlds")
        intact = storage.read_bytes(name) == b"manyworlds"
        storage.delete(name)
    except (ManyworldsError, OSError) as error:
        return Check(
            "storage", "broken", f"{uri} cannot be written: {error}", "run a doctor on another URI"
        )
    if intact:
        return Check("storage", "ok", f"{uri} can be written and read")
    return Check("storage", "broken", f"{uri} gives back other bytes than were written")
