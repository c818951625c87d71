"""What an ensemble of worlds costs beside one network over all classes, as K grows.

    python -m benchmarks.scale [--sets generated-10^5,omw] [--systems mach,one_vs_all]

Clicks of a generated product search with K = 10^4, 10^5 and 10^6, and omw; d = 32,768, h = 64,
one epoch of the same rows for all:

- `mach`: R worlds, one after the other on this machine, merged by `log`;
- `one_vs_all`: a softmax over all K classes, on this project's engine: a world whose B is K;
- `sampled`: a sampled softmax, in plain Torch;
- `mixture`: a sparsely-gated mixture of experts under a softmax over all K classes, with as many
  parameters as the worlds that are level with one-vs-all.

The last two learn one of a row's labels at a time, drawn anew, with learning rates as the worlds'
heads have; batches are made ahead for them by the same code as for a world.

Each runs in a process of its own, which tells how many bytes it grew by at its peak in training.
Writes benchmarks/results/scale/SET-SYSTEM.json, which are not measured again, and scale.json and
scale.md of them all; QUICK=1 only shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scale.systems import (
    DIMENSION,
    HIDDEN,
    MEASURES,
    SETS,
    SYSTEMS,
    WORLDS,
    Found,
    find,
)
from benchmarks.writing import QUICK, RESULTS, ROOT, machine, markdown, write_results

FOLDER = RESULTS / "scale"


def main() -> None:
    """Measure what was not measured yet, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated")
    parser.add_argument("--worlds", type=int, default=WORLDS, help="how many, or as large as")
    parser.add_argument("--here", type=Path, help="measure one system in this process; its result")
    arguments = parser.parse_args()
    names, systems = arguments.sets.split(","), arguments.systems.split(",")
    if arguments.here:
        found = MEASURES[systems[0]](find(names[0]), arguments.worlds)
        arguments.here.write_text(json.dumps({**found, "machine": machine()}, indent=1) + "\n")
        return
    folder = Path(tempfile.mkdtemp()) if QUICK else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for system in systems:
            path = folder / f"{name}-{system}.json"
            if not path.exists():
                print(f"{name}: {system}", flush=True)
                worlds = compared(read(folder)[name]) if system == "mixture" else WORLDS
                command = ["--sets", name, "--systems", system, "--here", str(path)]
                command += ["--worlds", str(worlds)]
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.scale", *command], cwd=ROOT, check=True
                )
    results = read(folder)
    write_results("scale", {"sets": results}, table(results))


def compared(systems: dict[str, Found]) -> int:
    """Return how many worlds the others are compared with: as many as are level with one-vs-all."""
    return int(level(systems["mach"], systems["one_vs_all"]["metrics"]["P@1"]))


def read(folder: Path) -> dict[str, dict[str, Found]]:
    """Return what was measured, by set and system."""
    return {
        name: {
            system: json.loads(path.read_text())
            for system in SYSTEMS
            for path in [folder / f"{name}-{system}.json"]
            if path.exists()
        }
        for name in SETS
    }


def level(found: Found, wanted: float) -> str:
    """Return the least number of worlds whose P@1 is at least `wanted`; all, if none is."""
    counts: list[str] = sorted(found["metrics"], key=int)
    enough = [count for count in counts if found["metrics"][count]["P@1"] >= wanted]
    return enough[0] if enough else counts[-1]


def table(sets: dict[str, dict[str, Found]]) -> str:
    """Return the results as Markdown."""
    rows: list[Sequence[object]] = []
    for name, systems in sets.items():
        if "mach" in systems and "one_vs_all" in systems:
            rows += beside(name, systems)
    metrics = ("P@1", "R@10", "R@100")
    ratios = ("time ratio", "peak ratio", "model ratio")
    head = ("set", "", "seconds", "peak MB", "model MB", *metrics, *ratios)
    lines = [
        "# Cost beside one network over all classes",
        "",
        f"Made by `make bench-scale`: d = {DIMENSION:,}, h = {HIDDEN}, one epoch of the same rows"
        " for all. Of the worlds, as many as it takes to be level with one-vs-all's P@1 (all of"
        " them where none are): their seconds added up, and the peak of one process that trains"
        " them in turn. Ratios are to these worlds.",
        "",
        *markdown(head, rows),
    ]
    return "\n".join(lines) + "\n"


def beside(name: str, systems: dict[str, Found]) -> list[Sequence[object]]:
    """Return the lines of one set."""
    found = systems["mach"]
    worlds = str(compared(systems))
    ours = {
        "seconds": int(worlds) * found["seconds_a_world"],
        "peak_bytes": found["peak_bytes"],
        "parameters": int(worlds) * found["parameters_a_world"],
        "metrics": found["metrics"][worlds],
    }
    title = f"{worlds} worlds of {found['buckets']:,} buckets"
    rows: list[Sequence[object]] = [(name, title, *cells(ours), "", "", "")]
    for system in SYSTEMS[1:]:
        if other := systems.get(system):
            ratios = (other[key] / ours[key] for key in ("seconds", "peak_bytes", "parameters"))
            told = (f"{ratio:.1f}" for ratio in ratios)
            rows.append(("", system.replace("_", "-"), *cells(other), *told))
    return rows


def cells(found: Found) -> list[str]:
    """Return what is told of one system."""
    costs = found["seconds"], found["peak_bytes"] / 1e6, 4 * found["parameters"] / 1e6
    shares = (f"{100 * found['metrics'][key]:.1f}" for key in ("P@1", "R@10", "R@100"))
    return [*(f"{cost:,.0f}" for cost in costs), *shares]


if __name__ == "__main__":
    main()
