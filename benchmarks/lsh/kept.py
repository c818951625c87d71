"""Results that are kept one by one, so that what is there is not measured again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.writing import QUICK, RESULTS, machine

FOLDER = Path(tempfile.mkdtemp()) if QUICK else RESULTS / "lsh"
Found = dict[str, Any]


class Kept:
    """What was measured of one thing, in a file.

    Args:
        name: of the file.
    """

    def __init__(self, name: str) -> None:
        self._path = FOLDER / f"{name}.json"
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
            FOLDER.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._all, indent=1) + "\n")
