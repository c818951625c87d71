"""How much of its accuracy a network keeps when each row computes a share of the neurons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accuracy import JOBS, settings
from benchmarks.datasets import find_sets
from benchmarks.lsh.choosers import CHOOSERS
from benchmarks.lsh.images import MAKERS, image_set
from benchmarks.lsh.training import (
    Found,
    bucket_accuracy,
    dense_operations,
    merged_precision,
    trained,
)
from benchmarks.writing import QUICK, machine
from workers.config import (
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    OptimizerConfig,
    PartitionConfig,
    RuntimeConfig,
    TrainingConfig,
    WorldConfig,
)
from workers.threads import Pool
from workers.world import World

SHARES = (0.5, 0.05) if QUICK else (0.5, 0.25, 0.1, 0.05, 0.02)
"""Of the neurons; beside all of them."""
SEEDS = (0,) if QUICK else (0, 1, 2)
"""Of the images; worlds have one."""
WORLDS = 2
"""R of the sets of texts."""
LAYERS, WIDTH = 2, 1000
"""Hidden layers, as in the paper."""
EPOCHS = {"rectangles": 20, "convex": 20, "digits": 60}


class Unit(NamedTuple):
    """One training of one system."""

    system: str
    """One of `CHOOSERS`; `dense` where all neurons are active."""
    share: float
    seed: int

    @property
    def name(self) -> str:
        """In the results."""
        return f"{self.system} {self.share:g} {self.seed}"


def units(seeds: tuple[int, ...]) -> Iterator[Unit]:
    """Yield what is trained on a set."""
    for seed in seeds:
        yield Unit("dense", 1.0, seed)
        for share in SHARES:
            for system in CHOOSERS:
                yield Unit(system, share, seed)


def measure(name: str, path: Path) -> dict[str, Any]:
    """Measure what is missing of one set, and write each result when it is there."""
    found: dict[str, Any] = {"schema": 1, "machine": machine(), "units": {}}
    if path.exists():
        found = json.loads(path.read_text())
    run = _images if name in MAKERS else _texts
    for unit in units(SEEDS if name in MAKERS else SEEDS[:1]):
        if unit.name not in found["units"]:
            found["units"][unit.name] = run(name, unit)
            print(f"{name}, {unit.name}: {found['units'][unit.name]}", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _images(name: str, unit: Unit) -> Found:
    chosen = image_set(name, unit.seed)
    config = WorldConfig(
        data=DataConfig(
            train=str(chosen.train), classes=chosen.classes, indices="pixels", values="values"
        ),
        # Each class has a bucket of its own.
        partition=PartitionConfig(buckets=chosen.classes),
        # So wide that few of the pixels share a place.
        features=FeaturesConfig(dimension=16_384),
        model=ModelConfig(hidden=(WIDTH,) * LAYERS, activation="relu", active=unit.share),
        optimizer=OptimizerConfig(input_rate=0.05, rate=0.001),
        training=TrainingConfig(
            epochs=1 if QUICK else EPOCHS[name], batch_size=100, precision="fp32"
        ),
        runtime=RuntimeConfig(device="cpu"),
        seed=unit.seed,
    )
    return _measured(
        config,
        unit,
        [0],
        lambda worlds: {"accuracy": bucket_accuracy(worlds[0], chosen, unit.system)},
    )


def _texts(name: str, unit: Unit) -> Found:
    (chosen,), _ = find_sets([name])
    job = JOBS[name]
    run = settings(chosen, job, "lsh", worlds=WORLDS, buckets=job.buckets)
    config = run.world_config()
    epochs = 1 if QUICK else config.training.epochs
    config = replace(
        config,
        model=replace(config.model, active=unit.share),
        training=replace(config.training, epochs=epochs),
        seed=unit.seed,
    )

    def accuracies(worlds: list[World]) -> Found:
        each = [bucket_accuracy(world, chosen, unit.system) for world in worlds]
        merged = merged_precision(worlds, chosen, unit.system)
        return {"accuracy": sum(each) / len(each), "merged P@1": merged}

    return _measured(config, unit, list(range(WORLDS)), accuracies)


def _measured(
    config: WorldConfig,
    unit: Unit,
    indices: list[int],
    accuracies: Callable[[list[World]], Found],
) -> Found:
    with Pool() as pool:
        made = [trained(config, unit.system, index, pool) for index in indices]
        worlds, costs = [world for world, _ in made], [cost for _, cost in made]
        found: Found = {**accuracies(worlds), "seconds": sum(cost["seconds"] for cost in costs)}
        if unit.share == 1:
            return {**found, "operations": dense_operations(config, pool)}
        return {**found, "operations": {"steps": costs[0]["steps"], **costs[0]["operations"]}}
