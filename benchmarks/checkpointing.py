"""What checkpoints cost, and what they save.

    python -m benchmarks.checkpointing [--steps 600] [--folder FOLDER] [--dimension 131072]

Trains one world on made-up texts, three times over: without checkpoints, with each written
before the next step (`waiting`), and with each written beside the training (`beside`). Times
every step, and looks before every step at the newest committed checkpoint, as if the process
were killed there: the steps since then would be done twice. Writes
benchmarks/results/checkpointing.json and checkpointing.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.writing import write_results
from workers.checkpoints import Checkpoints
from workers.config import (
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    PartitionConfig,
    RuntimeConfig,
    TrainingConfig,
    WorldConfig,
)
from workers.log import AttemptLog
from workers.storage import RunPaths, Storage
from workers.world import World

CLASSES = 100_000
BATCH = 1024
WARM_UP = 20
"""Steps that are not counted: kernels are compiled, and pages touched."""
PARTS = (40, 20, 10, 5)
"""The intervals between checkpoints, as parts of all steps."""
MODES = ("waiting", "beside")


@dataclass(slots=True)
class Trained:
    """What was seen of one training."""

    seconds: list[float] = field(default_factory=list)
    """Of each step that is counted, with what its checkpoint made it wait."""
    taken: list[int] = field(default_factory=list)
    """The steps after which a checkpoint was taken."""
    behind: list[int] = field(default_factory=list)
    """Before each step from the first committed checkpoint on: steps since the newest one."""


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--folder", default=None, help="where the checkpoints go")
    parser.add_argument("--dimension", type=int, default=131_072, help="width of the hashed input")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = measured(Path(folder), arguments.steps, arguments.dimension)
    write_results("checkpointing", results, table(results))


def measured(folder: Path, steps: int, dimension: int) -> dict[str, Any]:
    """Return the stalls of both ways, and what each interval costs and saves."""
    shard = write_rows(folder / "rows.parquet", steps * BATCH)
    plain = trained(folder, config(shard, dimension, steps), None)
    step = statistics.median(plain.seconds)
    found: dict[str, Any] = {"steps": steps, "step_ms": round(1000 * step, 2), "intervals": {}}
    for part in PARTS:
        interval = max(1, steps // part)
        settings = config(shard, dimension, interval)
        runs = {mode: trained(folder / f"{mode}-{interval}", settings, mode) for mode in MODES}
        found["intervals"][str(interval)] = {
            mode: summed_up(run, plain, interval) for mode, run in runs.items()
        }
    found["checkpoint_bytes"] = checkpoint_bytes(folder / f"{MODES[0]}-{interval}")
    return found


def summed_up(run: Trained, plain: Trained, interval: int) -> dict[str, Any]:
    """Return the stall of a step, the time of the whole, and the steps done twice after a kill."""
    step = statistics.median(plain.seconds)
    stalls = [1000 * (run.seconds[at - 1 - WARM_UP] - step) for at in run.taken if at > WARM_UP]
    return {
        "checkpoints": len(run.taken),
        "stall_ms": {
            "median": round(statistics.median(stalls), 1),
            "largest": round(max(stalls), 1),
        },
        "slower_percent": round(100 * (sum(run.seconds) / sum(plain.seconds) - 1), 1),
        "steps_done_twice": {
            "mean": round(statistics.mean(run.behind), 1),
            "largest": max(run.behind),
        },
        "seconds_done_twice": round(statistics.mean(run.behind) * step, 2),
        "interval_seconds": round(interval * step, 2),
    }


def trained(folder: Path, settings: WorldConfig, mode: str | None) -> Trained:
    """Train a world to its end; `mode` None: without checkpoints."""
    paths = RunPaths(Storage(str(folder)))
    found, times = Trained(), [0.0]
    with (
        closing(AttemptLog(paths, 0, "01-a")) as log,
        closing(World(settings, 0)) as world,
        closing(Checkpoints(paths, "01-a", log, lambda: None)) as checkpoints,
    ):

        def stop() -> bool:
            times.append(time.perf_counter())
            newest = paths.newest_checkpoint(0) if mode else None
            if newest:
                found.behind.append(world.step - newest.step)
            if world.step > WARM_UP:
                found.seconds.append(times[-1] - times[0])
            # What looking took is no part of the next step.
            times[0] = time.perf_counter()
            return False

        world.train(stop=stop, checkpoint=taker(checkpoints, mode, found))
    return found


def taker(checkpoints: Checkpoints, mode: str | None, found: Trained) -> Callable[[World], bool]:
    """Return what training calls when a checkpoint is due."""

    def take(world: World) -> bool:
        if mode and not checkpoints.offer(world):
            return False
        if mode == "waiting":
            checkpoints.wait()
        found.taken.append(world.step)
        return True

    return take


def write_rows(path: Path, rows: int) -> str:
    """Write texts of eight made-up words, and a label each; return the path."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, rows)
    words = rng.zipf(1.3, (rows, 8)) % 50_000
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    pq.write_table(pa.table({"text": texts, "labels": labels}), path, row_group_size=65_536)
    return str(path)


def config(shard: str, dimension: int, interval: int) -> WorldConfig:
    """Return the settings of the world."""
    return WorldConfig(
        data=DataConfig(train=shard, classes=CLASSES, text=("text",)),
        partition=PartitionConfig(buckets=4096),
        features=FeaturesConfig(dimension=dimension),
        model=ModelConfig(hidden=(256,)),
        training=TrainingConfig(epochs=1, batch_size=BATCH),
        runtime=RuntimeConfig(device="cpu", checkpoint_steps=interval),
    )


def checkpoint_bytes(folder: Path) -> int:
    """Return the size of the newest checkpoint."""
    paths = RunPaths(Storage(str(folder)))
    newest = paths.newest_checkpoint(0)
    assert newest is not None, f"no checkpoint in {folder}"
    files = paths.storage.manifest(newest.folder).files
    return sum(entry.size for entry in files.values())


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    size = results["checkpoint_bytes"] / 1e6
    lines = [
        "# Checkpoints",
        "",
        "Made by `make bench-checkpointing`: one world on a CPU and a local disk, a checkpoint of"
        f" {size:,.0f} MB, {results['steps']:,} steps of {results['step_ms']:.1f} ms in the median."
        " `waiting` writes each checkpoint before the next step, `beside` in a thread beside the"
        " training. `stall`: how much longer than the median the step with a checkpoint took;"
        " `slower`: all steps together, beside a training without checkpoints; `done twice`: the"
        " steps since the newest checkpoint that counts, had the process been killed then.",
        "",
        "| interval | | stall, median | stall, largest | slower | done twice, mean | largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for interval, modes in results["intervals"].items():
        for mode, found in modes.items():
            stall, twice = found["stall_ms"], found["steps_done_twice"]
            lines.append(
                f"| {interval} steps, {found['interval_seconds']:.1f} s | {mode}"
                f" | {stall['median']:,.0f} ms | {stall['largest']:,.0f} ms"
                f" | {found['slower_percent']:.1f} %"
                f" | {twice['mean']:.1f} steps, {found['seconds_done_twice']:.1f} s"
                f" | {twice['largest']} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
