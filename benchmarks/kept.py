"""Results that are kept one by one, so that what is there is not measured again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.writing import QUICK, RESULTS, machine

BASE = Path(tempfile.mkdtemp()) if QUICK else RESULTS
Found = dict[str, Any]


class Kept:
    """What was measured of one thing, in a file.

    Args:
        folder: of the benchmark, among the results.
        name: of the file.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._path = BASE / folder / f"{name}.json"
        self._all: Found = {"schema": 1, "machine": machine(), "units": {}}
        if self._path.exists():
            self._all = json.loads(self._path.read_text())

    @property
    def units(self) -> dict[str, Found]:
        """What was measured, by name."""
        found: dict[str, Found] = self._all["units"]
        return found

    def measure(self, name: str, measure: Callable[[], Found]) -> None:
        """Measure what is missing, and write it."""
        if name not in self.units:
            # Units of one file may come from several machines.
            self.units[name] = {**measure(), "cpu": machine()["cpu"]}
            print(f"{self._path.stem}, {name}: {json.dumps(self.units[name])}", flush=True)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._all, indent=1) + "\n")
