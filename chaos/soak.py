"""32 worlds on Ray, and somebody who kills a random one of their processes every few seconds.

    python -m chaos.soak [--every 4] [--worlds 32] [--seed 0] [--folder FOLDER]

Trains the worlds undisturbed in this process first, then once more on a local Ray cluster while
a thread kills processes (SIGKILL) until all is done. Prints kills, resumes, steps done twice, and
whether every world's weights have the sha256 of the undisturbed run. Writes
benchmarks/results/soak.json and soak.md; exits with 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.writing import write_results
from chaos.looking import PROCESS, RESUMED
from orchestrator import api
from orchestrator.config import RunConfig, load
from orchestrator.executors.cluster import connect
from orchestrator.run import Run
from orchestrator.views import WorldView
from workers.errors import StorageError

CLASSES = 2_000
ROWS = 24_000
INTERVAL = 20
"""Steps between checkpoints."""
PARALLEL = 4
_ANYONE = 0.25
"""Share of the kills that may hit an attempt before its first checkpoint."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed."""

    world: int
    attempt: str


class Killer:
    """A thread that kills a random world's process every few seconds, while it is entered.

    Only processes of this run's attempts that descend from this one are killed.

    Args:
        run: the run's folder.
        every: seconds between two kills, on average.
        seed: of when and whom.
    """

    def __init__(self, run: str, every: float, seed: int) -> None:
        self.kills: list[Kill] = []
        self._run = run
        self._every = every
        self._rng = random.Random(seed)
        self._running: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill_on, name="killer", daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def listen(self, views: Sequence[WorldView]) -> None:
        """Take in which worlds run, and tell how far all are."""
        done = sum(view.state == "done" for view in views)
        self._running = [view.world for view in views if view.state == "running"]
        print(f"\r{done} of {len(views)} worlds, {len(self.kills)} kills", end="", flush=True)

    def _kill_on(self) -> None:
        while not self._over.wait(self._every * self._rng.uniform(0.5, 1.5)):
            victims = list(self._victims())
            if victims:
                pid, kill = self._rng.choice(victims)
                os.kill(pid, signal.SIGKILL)
                self.kills.append(kill)

    def _victims(self) -> Iterator[tuple[int, Kill]]:
        # Mostly those that got further than their world was: where it takes minutes to begin,
        # killing all others too would leave the worlds where they are.
        anyone = self._rng.random() < _ANYONE
        for world in self._running:
            for folder in Path(self._run).glob(f"worlds/{world:03d}/attempts/*"):
                kill, log = Kill(world, folder.name), folder / "log.txt"
                further = anyone or any(folder.glob("checkpoints/*/COMMIT"))
                if kill in self.kills or not further or not log.exists():
                    continue
                found = PROCESS.search(log.read_text())
                if found and is_ours(int(found[1])):
                    yield int(found[1]), kill


def is_ours(pid: int) -> bool:
    """Return whether a process is alive and descends from this one."""
    while pid > 1:
        try:
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            return False
        if state in "ZX":
            return False
        if int(parent) == os.getpid():
            return True
        pid = int(parent)
    return False


def main() -> int:
    """Train, kill, compare, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=32)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0, help="of when and whom to kill")
    parser.add_argument("--folder", default=None, help="where the runs go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = soaked(Path(folder), arguments.worlds, arguments.every, arguments.seed)
    write_results("soak", results, table(results))
    return 0 if results["weights_equal"] == results["worlds"] else 1


def soaked(folder: Path, worlds: int, every: float, seed: int) -> dict[str, Any]:
    """Return what was seen of a run whose processes were killed."""
    load = os.getloadavg()[0]
    shard = write_rows(folder / "rows.parquet")
    calm, calm_seconds = undisturbed(config(folder / "calm", shard, worlds, "none"))
    began = time.monotonic()
    connect("local", {"num_cpus": PARALLEL})
    try:
        disturbed = config(folder / "run", shard, worlds, "local")
        with Killer(disturbed.run, every, seed) as killer:
            summary = api.train(disturbed, listener=killer.listen)
    finally:
        ray.shutdown()
    print()
    run = Run.open(disturbed.run)
    found = hashes(run)
    return {
        "worlds": worlds,
        "done": len(summary.done),
        "failed": dict(summary.failed),
        "weights_equal": sum(found.get(world) == sha for world, sha in calm.items()),
        "kills": len(killer.kills),
        "seconds_between_kills": every,
        **retraced(run),
        "steps_between_checkpoints": INTERVAL,
        "seconds": round(time.monotonic() - began, 1),
        "seconds_undisturbed": round(calm_seconds, 1),
        "load_before": round(load, 1),
        "machine_was_busy": load > 1,
    }


def undisturbed(settings: RunConfig) -> tuple[dict[int, str], float]:
    """Return the sha256 of each world's weights, trained in this process, and the seconds."""
    began = time.monotonic()
    api.train(settings)
    return hashes(Run.open(settings.run)), time.monotonic() - began


def hashes(run: Run) -> dict[int, str]:
    """Return the sha256 of each finished world's weights, as they lie there."""
    found = {}
    for world in range(run.worlds):
        if finished := run.finished(world):
            folder = run.paths.final(world, finished[0])
            found[world] = run.storage.verify(folder).files["model.safetensors"].sha256
    return found


def retraced(run: Run) -> dict[str, Any]:
    """Return what the attempts tell of how they followed one another."""
    twice: list[int] = []
    attempts = resumes = steps = 0
    for state in run.states():
        reached = 0
        for attempt in state.attempts:
            log = Path(run.uri, run.paths.log(state.index, attempt.name))
            if not log.exists():
                continue
            found = RESUMED.search(log.read_text())
            began = int(found[1]) if found else 0
            if reached:
                twice.append(max(0, reached - began))
            attempts, resumes = attempts + 1, resumes + (found is not None)
            reached = max(began, told_last(run, state.index, attempt.name))
        steps += reached
    return {
        "attempts": attempts,
        "resumes": resumes,
        "steps": steps,
        "steps_done_twice": {
            "all": sum(twice),
            "mean": round(statistics.mean(twice), 1) if twice else 0,
            "largest": max(twice, default=0),
        },
    }


def told_last(run: Run, world: int, attempt: str) -> int:
    """Return the last step that an attempt told, or 0."""
    try:
        return int(run.progress(world, attempt).get("step", 0))
    except StorageError:
        return 0


def write_rows(path: Path) -> str:
    """Write texts of six made-up words, and a label each; return the path."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, ROWS)
    words = rng.zipf(1.3, (ROWS, 6)) % 10_000
    texts = [
        f"c{label} {' '.join(f'w{word}' for word in row)}"
        for label, row in zip(labels, words, strict=True)
    ]
    pq.write_table(pa.table({"text": texts, "labels": labels}), path, row_group_size=5_000)
    return str(path)


def config(run: Path, shard: str, worlds: int, address: str) -> RunConfig:
    """Return the settings of the run."""
    return load(
        None,
        [
            f"run={run}",
            f"worlds={worlds}",
            f"data.train={shard}",
            f"data.classes={CLASSES}",
            "data.text=[text]",
            "partition.buckets=256",
            "features.dimension=8192",
            "model.hidden=[32]",
            "training.batch_size=64",
            "training.epochs=2",
            "runtime.device=cpu",
            "runtime.threads=1",
            f"runtime.checkpoint_steps={INTERVAL}",
            "runtime.report_steps=2",
            f"cluster.address={address}",
            "cluster.gpus_per_world=0",
            "cluster.cpus_per_world=1",
            f"cluster.max_parallel={PARALLEL}",
            # Ends in a row without a checkpoint in between: kills alone seldom make so many.
            "retry.error=10",
            "retry.backoff_seconds=0.1",
            "retry.backoff_cap_seconds=1",
        ],
    )


def table(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    twice = found["steps_done_twice"]
    rows = {
        "worlds done": f"{found['done']} of {found['worlds']}",
        "weights equal to the undisturbed run's": f"{found['weights_equal']} of {found['worlds']}",
        "processes killed": f"{found['kills']}",
        "attempts": f"{found['attempts']}, of which {found['resumes']} resumed from a checkpoint",
        "steps done twice": f"{twice['all']:,} beside {found['steps']:,}, {twice['mean']} a resume,"
        f" {twice['largest']} at most; a checkpoint every {found['steps_between_checkpoints']}",
        "time": f"{found['seconds']:.0f} s; undisturbed, one world after the other,"
        f" {found['seconds_undisturbed']:.0f} s",
    }
    busy = ": other programs kept it busy" if found["machine_was_busy"] else ""
    lines = [
        "# Soak",
        "",
        "Made by `make soak`: a random world's process killed (SIGKILL) every"
        f" {found['seconds_between_kills']:g} s on average, until all is done. The machine's load"
        f" before was {found['load_before']:g}{busy}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
