"""How long a step takes on one core, with all buckets computed and with a share of them.

    python -m benchmarks.lsh.wall BUCKETS SHARE own|shared FILE

measures one size in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.kept import Found, Kept
from benchmarks.lsh.products import Way, world_config
from benchmarks.lsh.training import told
from benchmarks.pace import seconds_a_step
from benchmarks.writing import QUICK, ROOT
from workers.kernels.cpu_steps import CpuSteps
from workers.kernels.steps import Examples
from workers.lsh.network import hashed_steps, layers_of
from workers.lsh.shared import count_dense
from workers.threads import Pool
from workers.world import World

BUCKETS = (1_000, 5_000) if QUICK else (1_000, 5_000, 20_000, 50_000, 100_000, 200_000, 500_000)
SHARES = (0.01,) if QUICK else (0.002, 0.005, 0.01, 0.02, 0.05)
WAYS = (Way(1.0), *(Way(share, shared) for share in SHARES for shared in (False, True)))
FIRST, TIMED = (2, 3) if QUICK else (2, 16)
"""Steps before those that are timed, and those: up to the first tables that are made anew, which
is done ever more rarely after."""


class Dense(CpuSteps):
    """Dense steps that are counted."""

    tally = np.zeros(3, np.int64)

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        widths = [len(bias) for bias in self._biases]
        count_dense(self.tally, examples, widths, "softmax")
        return super().train(examples, step=step, input_rate=input_rate, rate=rate)


def measure() -> None:
    """Measure what is missing."""
    kept = Kept("lsh", "wall")
    for buckets in BUCKETS:
        for way in WAYS:
            # A row of a thousand buckets has no two thousandths of them to choose.
            if way.share * buckets >= 2:
                kept.measure(f"{buckets} {way.name}", partial(_elsewhere, buckets, way))


def _elsewhere(buckets: int, way: Way) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        kind = "shared" if way.shared else "own"
        command = [str(buckets), str(way.share), kind, str(path)]
        subprocess.run(
            [sys.executable, "-m", "benchmarks.lsh.wall", *command], cwd=ROOT, check=True
        )
        found: Found = json.loads(path.read_text())
        return found


def _measured(buckets: int, way: Way) -> Found:
    """Return the seconds of a step of this process, which has one core, and what it does."""
    config = world_config(buckets, way, threads=1)
    world = World(config, 0)
    given, bf16 = (config, world.parameters, world.optimizer_state), world.classifier.bf16
    with Pool(1) as pool:
        loss, relu = config.model.loss, config.model.activation == "relu"
        steps = (
            Dense(*given[1:], loss=loss, relu=relu, bf16=bf16, pool=pool)
            if way.share == 1
            else hashed_steps(*given, bf16=bf16, pool=pool)
        )
        world.classifier.compute_by(steps)
        seconds = seconds_a_step(world, FIRST, TIMED)
    world.close()
    active = layers_of(config)[-1].active
    return {"seconds": seconds, "active": active, "steps": world.step, **told(steps.tally)}


def main() -> None:
    """Measure one size, and write what was found."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    buckets, share, kind, path = sys.argv[1:]
    found = _measured(int(buckets), Way(float(share), kind == "shared"))
    Path(path).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
