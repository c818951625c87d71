"""Hostile files in place of each file of a run and of an ensemble: thousands of cases.

    python -m chaos.hostile [--each 100] [--seed 0] [--files REGEX] [--folder FOLDER]

Makes a finished, merged run of three tiny worlds, replaces each of its files in up to `--each`
ways (tests/orchestrator/hostile.py says in which, and what nobody can tell from a good file),
and goes through one of the public doors behind which the file is read, each time. Prints one
line a file, writes benchmarks/results/hostile.json and hostile.md, and exits with 1 if any case
gave anything but an error in words or the answer of the run that nobody touched.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.writing import write_results
from tests.orchestrator.hostile import Case, Generator
from tests.orchestrator.hostile_doors import Outcome, Subject, doors


def main() -> int:
    """Go through the cases, and write down what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=100, help="cases of each file at most")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices")
    parser.add_argument("--files", default=".", help="only those that this expression is found in")
    parser.add_argument("--folder", default=None, help="where the run goes; one in memory is fast")
    arguments = parser.parse_args()
    # Torch warns of odd buffers; what counts is what comes of them.
    warnings.simplefilter("ignore")
    began = time.monotonic()
    files: dict[str, Any] = {}
    wrong: list[Outcome] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        subject = Subject(Path(folder))
        for path in subject.paths():
            if re.search(arguments.files, path):
                cases = chosen(subject.generator(seed=arguments.seed), path, arguments)
                outcomes = [subject.judge(case, door) for case, door in cases]
                files[general(path)] = summed_up(outcomes)
                wrong += [outcome for outcome in outcomes if outcome.verdict == "wrong"]
                print(line(general(path), files[general(path)]), flush=True)
    for outcome in wrong:
        print(f"wrong: {outcome.door}, {outcome.case}: {outcome.found}")
    results = {
        "cases": sum(found["cases"] for found in files.values()),
        "wrong": len(wrong),
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - began, 1),
        "files": files,
    }
    write_results("hostile", results, table(results))
    print(f"{results['cases']:,} cases, {len(wrong)} wrong, {results['seconds']:.0f} s")
    return 1 if wrong else 0


def chosen(
    generator: Generator, path: str, arguments: argparse.Namespace
) -> Iterator[tuple[Case, str]]:
    """Yield the cases of a file that are tried, and the door of each."""
    rng = random.Random(f"{arguments.seed} {general(path)}")
    for case in generator.cases(path, arguments.each):
        yield case, rng.choice(doors(path))


def general(path: str) -> str:
    """Return a path without the names that differ from run to run."""
    named = re.sub(r"/attempts/[^/]+", "/attempts/NAME", path)
    return re.sub(r"^ensembles/[0-9a-f]{16}", "ensembles/DIGEST", named)


def summed_up(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what came of the cases of one file."""
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    refused = [outcome.found for outcome in outcomes if outcome.verdict == "refused"]
    return {
        "cases": len(outcomes),
        "refused": dict(sorted(Counter(refused).items())),
        "same": verdicts["same"],
        "plausible": verdicts["plausible"],
        "wrong": verdicts["wrong"],
    }


def line(path: str, found: dict[str, Any]) -> str:
    """Return one file's cases in words."""
    errors = ", ".join(f"{count} {name}" for name, count in found["refused"].items())
    return (
        f"{path}: {found['cases']} cases: {errors or 'no error'}; {found['same']} same answer,"
        f" {found['plausible']} good files of something else, {found['wrong']} wrong"
    )


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Hostile files",
        "",
        "Made by `make hostile`: each file of a finished run and of its ensemble"
        " replaced by a damaged or hostile one, as it is and with all sizes and hashes that vouch"
        " for it recomputed, then read through a public door (`status`, `logs`, `clean`, `merge`,"
        " `resume`, the next attempt at a world, `Ensemble.load` with `verify=full`, `evaluate`,"
        " `report`, `plan`)."
        f" {results['cases']:,} cases. `error`: an error in words; `same`: the answer of the run"
        " that nobody touched; `other`: a good file of something else, with all hashes"
        " recomputed, which nobody can tell; `wrong`: anything else.",
        "",
        "| file | cases | error | same | other | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for path, found in results["files"].items():
        refused = sum(found["refused"].values())
        counts = [found["cases"], refused, found["same"], found["plausible"], found["wrong"]]
        lines.append(f"| `{path}` | {' | '.join(f'{count:,}' for count in counts)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
