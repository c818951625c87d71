"""Hashing inside a world: accuracy, operations, and the time of a step.

    python -m benchmarks.lsh [--parts wide,wall,accuracy]
        [--sets digits,tldr] [--systems hashing,random] [--shares 0.05,0.1]

- `wide`: bucket accuracy of a world of 200,000 buckets;
- `wall`: a step's time on one core, for 1,000 to 500,000 buckets, and what it counts;
- `accuracy`: networks of two hidden layers of 1,000 on images, and worlds of texts, by the share of
  neurons that is active, chosen by hash tables, at random, exactly, and by dropout.

Every result is kept in benchmarks/results/lsh/, and not measured again; lsh.json, lsh.md and
lsh.png are made of all that is there. QUICK=1 only shows that it runs.
"""

from __future__ import annotations

import argparse

from benchmarks.kept import Kept
from benchmarks.lsh import accuracy, wall, wide
from benchmarks.lsh.choosers import CHOOSERS
from benchmarks.lsh.figure import draw
from benchmarks.lsh.report import table
from benchmarks.writing import write_results

PARTS = ("wide", "wall", "accuracy")


def main() -> None:
    """Measure what is asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--sets", default=",".join(accuracy.SETS), help="comma-separated")
    parser.add_argument("--systems", default=",".join(CHOOSERS), help="comma-separated")
    parser.add_argument("--shares", default="", help="comma-separated; default: all")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    shares = [float(share) for share in arguments.shares.split(",") if share] or accuracy.SHARES
    if "wide" in parts:
        wide.measure()
    if "wall" in parts:
        wall.measure()
    if "accuracy" in parts:
        accuracy.measure(arguments.sets.split(","), arguments.systems.split(","), shares)
    results = {name: Kept("lsh", name).units for name in ("wide", "wall", *accuracy.SETS)}
    write_results("lsh", {"measured": results}, table(results))
    draw(results)


if __name__ == "__main__":
    main()
