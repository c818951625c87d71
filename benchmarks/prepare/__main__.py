"""What `prepare` costs, and what it leaves of the quality.

    python -m benchmarks.prepare [--parts quality,speed,memory] [--sets bibtex,tldr]

- `quality`: ensembles trained on sets that were raw files, beside the sets themselves;
- `speed`: rows a second beside Ray Data alone and pandas;
- `memory`: the peak of one process, from 10^5 to 10^7 rows, each with another class name.

Every result is kept in benchmarks/results/prepare/, and not measured again; prepare.json and
prepare.md are made of all that is there. QUICK=1 only shows that it runs.
"""

from __future__ import annotations

import argparse

from benchmarks.kept import Kept
from benchmarks.prepare import costs, quality
from benchmarks.writing import write_results

PARTS = ("quality", "speed", "memory")


def main() -> None:
    """Measure what is asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--sets", default=",".join(quality.SETS), help="comma-separated")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if "quality" in parts:
        quality.measure(arguments.sets.split(","))
    if "speed" in parts:
        costs.measure_speed()
    if "memory" in parts:
        costs.measure_memory()
    results = {name: Kept("prepare", name).units for name in (*PARTS[1:], *quality.SETS)}
    write_results("prepare", {"measured": results}, table())


def table() -> str:
    """Return what is measured as Markdown."""
    lines = [
        "# Preparing shards",
        "",
        "Made by `make bench-prepare` (see `benchmarks/prepare/`).",
        "",
        *quality.quality_table(),
        *costs.speed_table(),
        *costs.memory_table(),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
