"""How long a step takes on one core, with all buckets computed and with a share of them."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.accuracy import Job, settings
from benchmarks.generated import product_search
from benchmarks.pace import seconds_a_step
from benchmarks.writing import QUICK
from workers.config import WorldConfig
from workers.lsh.config import LshConfig
from workers.world import World

CLASSES, ROWS, TEST_ROWS = (20_000, 20_000, 1_000) if QUICK else (1_000_000, 1_000_000, 50_000)
HIDDEN = 256
FIRST, TIMED = (2, 3) if QUICK else (6, 24)
"""Steps before those that are timed, and those: whole cycles of rebuilt tables among them."""


def products(buckets: int, share: float) -> WorldConfig:
    """Return a world of a generated product search; `share` 1: all buckets are computed."""
    chosen = product_search(f"products-{CLASSES}-{ROWS}", CLASSES, train=ROWS, test=TEST_ROWS)
    job = Job(
        settings={
            "features.dimension": 32_768,
            "model.hidden": f"[{HIDDEN}]",
            "training.epochs": 1,
            # What learns most of clicks like these in one epoch (docs/performance.md).
            "optimizer.input_rate": 1.0,
            "optimizer.rate": 0.02,
        }
    )
    config = settings(chosen, job, "lsh", worlds=1, buckets=buckets).world_config()
    model = replace(config.model, active=share, lsh=LshConfig(narrowest=1000))
    return replace(config, model=model, runtime=replace(config.runtime, threads=1, device="cpu"))


def step_seconds(buckets: int, share: float) -> float:
    """Return the seconds of a step of this process, which has one core."""
    world = World(products(buckets, share), 0)
    seconds = seconds_a_step(world, FIRST, TIMED)
    world.close()
    return seconds


def main() -> None:
    """Write the seconds of one size and share: BUCKETS SHARE FILE."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    seconds = step_seconds(int(sys.argv[1]), float(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
