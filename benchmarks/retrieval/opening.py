"""What opening an ensemble takes, in a process of its own.

    python -m benchmarks.retrieval.opening ENSEMBLE

Prints one JSON: seconds until it can answer and until it has, and memory. For a cold cache, its
files' pages are dropped first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.clock import resident
from benchmarks.writing import ROOT


def opened(ensemble: str, *, cold: bool) -> dict[str, Any]:
    """Return what a fresh process measures."""
    if cold:
        for path in Path(ensemble).iterdir():
            drop(path)
    command = [sys.executable, "-m", "benchmarks.retrieval.opening", ensemble]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def drop(path: Path) -> None:
    """Ask the system to forget the cached pages of a file."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def main() -> None:
    """Open, ask one query, and tell."""
    from orchestrator import Ensemble

    before = resident("VmRSS")
    began = time.perf_counter()
    ensemble = Ensemble.load(sys.argv[1])
    _ = ensemble.lookup
    ready = time.perf_counter()
    found = {
        "seconds": round(ready - began, 3),
        "python_rss_bytes": before,
        "resident_bytes": resident("VmRSS"),
        # Mapped files are counted by the system, and given back when others need the memory.
        "own_bytes": resident("RssAnon"),
        "peak_bytes": resident("VmHWM"),
    }
    ensemble.predict(["a query"], mode="pruned")
    found["first_answer_seconds"] = round(time.perf_counter() - ready, 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
