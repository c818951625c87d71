"""What the phases of a benchmark take."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

T = TypeVar("T")

ASKED = 1010
"""Test rows that are asked for one at a time."""
ANSWERED = 10
"""Classes that such a query wants."""
_WARM_UP = 10


@dataclass
class Clock:
    """Wall time, CPU time and peak memory of the phases of a benchmark."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield
        self.seconds[name] = round(time.perf_counter() - wall, 2)
        self.cpu_seconds[name] = round(_cpu_seconds() - cpu, 2)
        self.peak_rss_bytes[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def latency(ask: Callable[[T], object], queries: list[T]) -> dict[str, float]:
    """Return the milliseconds of one query after the other, the first of them left out."""
    seconds = []
    for query in queries:
        began = time.perf_counter()
        ask(query)
        seconds.append(time.perf_counter() - began)
    p50, p99 = np.percentile(seconds[_WARM_UP:], (50, 99))
    return {"p50_ms": round(1000 * float(p50), 3), "p99_ms": round(1000 * float(p99), 3)}


def resident(name: str) -> int:
    """Return the bytes of a line of this process's status: VmRSS now, VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status: expected {name}, found none; this needs Linux")
