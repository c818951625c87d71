"""Worlds on more slots, and what the driver costs a world.

    python -m benchmarks.scaling

- worlds of a minute on 1, 2 and 4 slots of faked GPUs: their steps wait, so that the cores have
  next to nothing to do, as where GPUs compute;
- 1,000 tiny worlds in one process and 100 on Ray, with one driver: its time and memory.

Takes 20 minutes; QUICK=1 only shows that it runs.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.writing import QUICK, ROOT, markdown, write_results
from orchestrator import load_config, train
from orchestrator.executors.cluster import connect
from orchestrator.views import WorldView
from orchestrator.words import duration, size
from workers.storage import RunPaths, Storage

SLOTS = (1, 2, 4)
WORLDS = 4
STEPS = 5 if QUICK else 70
STEP_SECONDS = 1.0
"""That every step waits."""
TINY = {"in one process": 20 if QUICK else 1000, "on Ray": 4 if QUICK else 100}
"""Worlds that have next to nothing to do."""
BATCH = 50
CLASSES = 1000


def main() -> None:
    """Measure all of it, each part in a process of its own."""
    if len(sys.argv) > 1:
        print(json.dumps(_part(*sys.argv[1:])))
        return
    slots = {str(count): _measured("slots", str(count)) for count in SLOTS}
    tiny = {way: _measured("tiny", way, str(worlds)) for way, worlds in TINY.items()}
    write_results("scaling", {"slots": slots, "tiny": tiny}, table(slots, tiny))


def table(slots: dict[str, Any], tiny: dict[str, Any]) -> str:
    """Return all of it in words and tables."""
    alone = slots["1"]["seconds"]
    work = WORLDS * STEPS * STEP_SECONDS
    scaled = [
        [
            count,
            duration(found["seconds"]),
            f"{100 * alone / (int(count) * found['seconds']):.1f} %",
            f"{100 * work / (int(count) * found['seconds']):.1f} %",
        ]
        for count, found in slots.items()
    ]
    rows = [
        [
            way,
            f"{found['worlds']:,}",
            duration(found["seconds"]),
            f"{_beside(found):,.0f}",
            f"{1000 * found['processor seconds'] / found['worlds']:,.0f}",
            size(found["peak"]),
            size(found["peak"] - found["before"]),
        ]
        for way, found in tiny.items()
    ]
    return "\n".join(
        [
            "# Scaling",
            "",
            f"Made by `make bench-scaling`. {WORLDS} worlds of {STEPS} steps that wait"
            f" {STEP_SECONDS:g} s each, on a local Ray cluster with faked GPUs, one a world: from"
            " `train` to the end of the last world, with the start of processes and the driver,"
            " without Ray's own start and the merge.",
            "",
            *markdown(("slots", "time", "of one slot's pace", "of the waiting alone"), scaled),
            "",
            "## The driver",
            "",
            f"Worlds of {BATCH} rows and {CLASSES:,} classes, a step each. Beside worlds: the time"
            " in which no world trained, for each of them: on Ray, mostly the start of its"
            " process.",
            "",
            *markdown(
                (
                    "worlds",
                    "number",
                    "time",
                    "beside worlds, ms each",
                    "driver's CPU, ms each",
                    "driver's peak memory",
                    "of it by worlds",
                ),
                rows,
            ),
            "",
            "In one process the driver's CPU and memory are those of the worlds too.",
            "",
        ]
    )


def _beside(found: dict[str, Any]) -> float:
    """Return the milliseconds of a world in which it did not train."""
    trained = found["of worlds"] / found["at once"]
    return 1000 * float(found["seconds"] - trained) / float(found["worlds"])


def _part(name: str, *words: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if name == "slots":
            return _on_slots(Path(folder), int(words[0]))
        return _tiny(Path(folder), words[0], int(words[1]))


def _on_slots(folder: Path, slots: int) -> dict[str, Any]:
    rows = STEPS * BATCH
    settings = [f"worlds={WORLDS}", f"cluster.max_parallel={slots}", "cluster.gpus_per_world=1"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "chaos" / "site")])
    os.environ |= {"CHAOS_STEP_SECONDS": str(STEP_SECONDS), "PYTHONPATH": path}
    connect("local", {"num_cpus": 8, "num_gpus": max(SLOTS)})
    try:
        return _trained(folder, rows, [*settings, "cluster.address=local"])
    finally:
        ray.shutdown()


def _tiny(folder: Path, way: str, worlds: int) -> dict[str, Any]:
    settings = [f"worlds={worlds}", "cluster.gpus_per_world=0"]
    if way == "in one process":
        return {**_trained(folder, BATCH, [*settings, "cluster.address=none"]), "at once": 1}
    cores = len(os.sched_getaffinity(0))
    connect("local", {"num_cpus": cores})
    try:
        found = _trained(folder, BATCH, [*settings, "cluster.address=local"])
    finally:
        ray.shutdown()
    return {**found, "at once": cores}


def _trained(folder: Path, rows: int, settings: list[str]) -> dict[str, Any]:
    """Return what a run took, of time and of this process."""
    labels = np.random.default_rng(0).integers(0, CLASSES, rows)
    table = pa.table({"query": [f"thing{label}" for label in labels], "labels": labels})
    pq.write_table(table, folder / "rows.parquet")
    run = folder / "run"
    config = load_config(
        overrides=[
            f"run={run}",
            f"data.train={folder / 'rows.parquet'}",
            f"data.classes={CLASSES}",
            "data.text=[query]",
            "partition.buckets=32",
            "features.dimension=256",
            "model.hidden=[8]",
            f"training.batch_size={BATCH}",
            "training.epochs=1",
            "runtime.device=cpu",
            "runtime.threads=1",
            "runtime.checkpoint_steps=100000",
            "watch.tensorboard=null",
            *settings,
        ]
    )
    before, began = _usage(), time.monotonic()
    # Until the last world is done: the merge is no part of it.
    ended = [began]

    def listen(views: Sequence[WorldView]) -> None:
        if all(view.state == "done" for view in views):
            ended.append(time.monotonic())

    summary = train(config, listener=listen)
    seconds, after = ended[1] - began, _usage()
    if summary.failed or summary.pending or summary.error:
        raise SystemExit(f"{summary}")
    return {
        "seconds": seconds,
        "worlds": config.worlds,
        "of worlds": _seconds_of_worlds(str(run), config.worlds),
        "processor seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "before": 1024 * before.ru_maxrss,
        "peak": 1024 * after.ru_maxrss,
    }


def _seconds_of_worlds(run: str, worlds: int) -> float:
    paths = RunPaths(Storage(run))
    total = 0.0
    for world in range(worlds):
        done = paths.finished(world)
        assert done is not None
        receipt = paths.storage.read_json(f"{paths.final(world, done[0])}/receipt.json")
        total += receipt["seconds"]
    return total


def _usage() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


def _measured(*words: str) -> dict[str, Any]:
    print(" ".join(words), flush=True)
    command = [sys.executable, "-m", "benchmarks.scaling", *words]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
