"""Where results go, and the machine that they were measured on, in words."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
QUICK = bool(os.environ.get("QUICK"))
"""Whether only to show that a benchmark runs: in little time, and without touching the results."""


def machine() -> dict[str, Any]:
    """Return the machine in words."""
    return {
        "cpu": next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.machine(),
        ),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }


def write_results(name: str, results: Mapping[str, Any], table: str) -> None:
    """Write `name`.json and `name`.md, unless this is a quick run, and print the table."""
    print(table)
    if QUICK:
        print("QUICK=1: the results are not kept")
        return
    header = {"schema": 1, "machine": machine()}
    (RESULTS / f"{name}.json").write_text(json.dumps({**header, **results}, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table)


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table."""
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]
