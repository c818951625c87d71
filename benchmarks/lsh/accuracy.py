"""How much of its accuracy a network keeps when each row computes a share of the neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

from benchmarks.accuracy import JOBS, settings
from benchmarks.datasets import find_sets
from benchmarks.kept import Found, Kept
from benchmarks.lsh.images import MAKERS, image_set
from benchmarks.lsh.training import (
    bucket_accuracy,
    dense_operations,
    merged_precision,
    trained,
)
from benchmarks.writing import QUICK
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
from workers.lsh.config import LshConfig
from workers.threads import Pool
from workers.world import World

SHARES = (0.05, 0.5) if QUICK else (0.05, 0.1, 0.02, 0.25, 0.5)
"""Of the neurons, beside all of them; what matters most comes first."""
SEEDS = (0,) if QUICK else (0, 1, 2)
"""Of the images; worlds have one."""
WORLDS = 2
"""R of the sets of texts."""
LAYERS, WIDTH = 2, 1000
"""Hidden layers, as in the paper."""
EPOCHS = {"rectangles": 10, "convex": 10, "digits": 60}
FAMILY: dict[str, Literal["signs", "winners"]] = {
    "rectangles": "winners",
    "convex": "winners",
    "digits": "signs",
}
"""What codes are made of: the better of the two for each set."""
CANDIDATES = 8
"""Neurons that tables name for each that is active, of images."""
RATE, FEW_RATE = 0.001, 0.005
"""Adam's, of images, where all neurons are active, and where few are and each moves more rarely."""
TEXTS = ("tldr", "omw")
SETS = (*MAKERS, *TEXTS)


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


def ways(systems: Sequence[str], shares: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Yield systems with shares, in the order in which they are measured."""
    yield "dense", 1.0
    for system in systems:
        for share in shares:
            yield system, share


def measure(names: Sequence[str], systems: Sequence[str], shares: Sequence[float]) -> None:
    """Measure what is missing of some sets, by some systems, at some shares."""
    for system, share in ways(systems, shares):
        for name in names:
            kept, run = Kept("lsh", name), _images if name in MAKERS else _texts
            for seed in SEEDS if name in MAKERS else SEEDS[:1]:
                unit = Unit(system, share, seed)
                kept.measure(unit.name, partial(run, name, unit))


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
        model=ModelConfig(
            hidden=(WIDTH,) * LAYERS,
            activation="relu",
            active=unit.share,
            lsh=LshConfig(
                family=FAMILY[name],
                candidates=CANDIDATES,
                # Hidden layers that learnt with what tables named expect that, as in the paper.
                predict="tables",
            ),
        ),
        optimizer=OptimizerConfig(
            input_rate=0.05, rate=RATE if unit.system == "dense" else FEW_RATE
        ),
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
        found = accuracies(worlds)
        if unit.share == 1:
            return {**found, "operations": dense_operations(config, pool)}
        return {**found, "operations": {"steps": costs[0]["steps"], **costs[0]["operations"]}}
