"""What ensembles cost beside Omikuji and PECOS, and how accurate they are for that.

    python -m benchmarks.peers [--sets tldr,omw] [--peers-python PYTHON]

On each set an ensemble of this project, Omikuji and PECOS are trained one after the other, each in
a process of its own with all cores, and tested on the same rows. Writes
benchmarks/results/peers/SET-SYSTEM.json, and peers.json and peers.md of them all. A set that has
all three is not measured again; `--again` measures it. QUICK=1 only shows that it runs, on tldr.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.datasets import BenchmarkSet, find_sets
from benchmarks.peers.mach import JOBS, measure
from benchmarks.writing import QUICK, RESULTS, ROOT, machine, markdown, write_results

FOLDER = RESULTS / "peers"
SYSTEMS = {"mach": "MACH", "omikuji": "Omikuji 0.5.2", "pecos": "PECOS XR-Linear 1.2.8"}
SETS = ("tldr",) if QUICK else ("tldr", "omw", "debian_depends", "api_search")
METRICS = ("P@1", "R@10", "R@100")

Found = Mapping[str, Any]


def main() -> None:
    """Measure the sets that are asked for and there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="interpreter that has the peers"
    )
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument(
        "--here", type=Path, help="measure our ensemble in this process; its result"
    )
    arguments = parser.parse_args()
    found, left_out = find_sets(arguments.sets.split(","))
    for line in left_out:
        print(line)
    if arguments.here:
        result = {**measure(found[0]), "machine": machine()}
        arguments.here.write_text(json.dumps(result, indent=1) + "\n")
        return
    folder = Path(tempfile.mkdtemp()) if QUICK else FOLDER
    for chosen in found:
        if arguments.again or len(read(folder, chosen.name)) < len(SYSTEMS):
            for system in SYSTEMS:
                run(chosen, system, folder, arguments.peers_python)
    results = {name: systems for name in JOBS if (systems := read(folder, name))}
    write_results("peers", {"sets": results}, table(results))


def run(chosen: BenchmarkSet, system: str, folder: Path, python: str) -> None:
    """Measure one system on a set, in a process of its own."""
    print(f"{chosen.name}: {system}", flush=True)
    path = str(folder / f"{chosen.name}-{system}.json")
    if system == "mach":
        command = [sys.executable, "-m", "benchmarks.peers", "--sets", chosen.name, "--here", path]
    else:
        command = [python, "-m", "benchmarks.peers.measure", "--set", chosen.name]
        command += ["--peer", system, "--out", path]
    # Omikuji writes its progress anew for every row.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{chosen.name}: {system} failed:\n{done.stderr[-2000:]}")


def read(folder: Path, name: str) -> dict[str, Found]:
    """Return what was measured on a set with its costs, by system."""
    found = {}
    for system in SYSTEMS:
        path = folder / f"{name}-{system}.json"
        if path.exists() and "model_bytes" in (result := json.loads(path.read_text())):
            found[system] = result
    return found


def table(sets: Mapping[str, Mapping[str, Found]]) -> str:
    """Return the results as Markdown."""
    head = ("set", "", *METRICS, "features s", "training s", "CPU s", "peak MB", "model MB")
    rows = [
        (name, *line)
        for name, systems in sets.items()
        for system, result in systems.items()
        for line in told(system, result)
    ]
    lines = [
        "# Cost beside peers",
        "",
        "Made by `make bench-peers`: from Parquet to a model, one system after the other, each with"
        " all cores. Peers are trained with their defaults on TF-IDF features, worlds with settings"
        " chosen for each set on training rows that were held back (debian_depends': in part by"
        " test rows, which flatters them). Features of peers are made, and for Omikuji written to a"
        " file, before; worlds make theirs while they train. Seconds"
        " of R worlds are their share of what all took. CPU seconds are of features and training."
        " Peak memory is of the whole process up to the end of training; a query's time from its"
        " text, 10 classes wanted, one query after the other.",
        "",
        *markdown((*head, "query p50 ms", "p99 ms"), rows),
    ]
    return "\n".join(lines) + "\n"


def told(system: str, found: Found) -> Iterator[list[str]]:
    """Yield the lines of one system: of an ensemble, one for its first 1, 2, … worlds each."""
    if system != "mach":
        yield cells(SYSTEMS[system], found["metrics"], found, found["query"]["text"])
        return
    worlds = found["settings"]["worlds"]
    for count in range(1, worlds + 1):
        share = count / worlds
        of_these = {
            **found,
            "seconds": {"train": share * found["seconds"]["train"]},
            "cpu_seconds": {"train": share * found["cpu_seconds"]["train"]},
            "model_bytes": share * found["model_bytes"],
        }
        query = found["query"]["text"][str(count)]
        yield cells(f"MACH, R = {count}", found["metrics"][str(count)], of_these, query)


def cells(title: str, metrics: Found, found: Found, query: Found) -> list[str]:
    """Return one line."""
    seconds, spent = found["seconds"], found["cpu_seconds"]
    before = [phase for phase in ("features", "write") if phase in seconds]
    return [
        title,
        *(f"{100 * metrics[key]:.1f}" for key in METRICS),
        f"{sum(seconds[phase] for phase in before):.1f}" if before else "",
        f"{seconds['train']:.1f}",
        f"{sum(spent[phase] for phase in (*before, 'train')):.0f}",
        f"{found['peak_rss_bytes']['train'] / 1e6:,.0f}",
        f"{found['model_bytes'] / 1e6:,.0f}",
        f"{query['p50_ms']:.1f}",
        f"{query['p99_ms']:.1f}",
    ]


if __name__ == "__main__":
    main()
