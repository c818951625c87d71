"""The systems that are compared, each trained and measured in the process that calls it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import accuracy
from benchmarks.accuracy import seconds_a_world
from benchmarks.baselines.mixture import Mixture
from benchmarks.baselines.rows import Bags, bags, one_label
from benchmarks.baselines.sampled_softmax import SampledSoftmax
from benchmarks.datasets import BenchmarkSet, Lists, find_sets
from benchmarks.engine.peak import train_a_little
from benchmarks.generated import product_search
from benchmarks.peers.clock import resident
from benchmarks.peers.metrics import TOP, metrics
from benchmarks.writing import QUICK
from orchestrator import Ensemble, train
from orchestrator.config import RunConfig
from orchestrator.ensemble import evaluate
from orchestrator.plan import parameters
from workers.features import Featurizer
from workers.kernels.steps import Rows
from workers.partition import Partition, partition_for
from workers.prefetch import prefetch
from workers.shards import Position, ShardSet, tables_in_order
from workers.threads import Pool
from workers.training_data import TrainingData
from workers.world import READY_BATCHES, World

GENERATED = {"generated-10^4": 10**4, "generated-10^5": 10**5, "generated-10^6": 10**6}
SETS = (*GENERATED, "omw")
SYSTEMS = ("mach", "one_vs_all", "sampled", "mixture")
DIMENSION, HIDDEN = 32_768, 64
WORLDS = 4 if QUICK else 8
TOLD = (1, 2, 3, 4, 6, 8)
"""Of how many worlds it is told what they give."""
BUCKETS = {10**4: 4096, 10**5: 16_384, 10**6: 65_536}
"""B for K up to so many classes: larger ones need fewer worlds (docs/performance.md)."""
TRAIN_ROWS = 20_000 if QUICK else 1_000_000
TEST_ROWS = 500 if QUICK else 5_000
NEGATIVES = 4096
EXPERTS = 16
EXPERT_SHARE = 0.1
"""Of the mixture's parameters, those of its experts."""
ASKED = 64
"""Test rows whose K scores are held at a time."""
COMBINER = "log"
JOB = accuracy.Job(
    settings={
        "features.dimension": DIMENSION,
        "model.hidden": f"[{HIDDEN}]",
        "training.epochs": 1,
        # What learns most of clicks like these in one epoch (docs/performance.md).
        "optimizer.input_rate": 1.0,
        "optimizer.rate": 0.02,
    }
)
"""What all systems share."""

Found = dict[str, Any]
Scores = Callable[[Any], NDArray[np.float32]]


def find(name: str) -> BenchmarkSet:
    """Return a set, written first if it is a generated one that is not there."""
    if name not in GENERATED:
        found, left_out = find_sets([name])
        if not found:
            raise SystemExit(left_out[0])
        return found[0]
    made = product_search(f"{name}-{TRAIN_ROWS}", GENERATED[name], train=TRAIN_ROWS, test=TEST_ROWS)
    return replace(made, name=name)


def settings(chosen: BenchmarkSet, run: str, *, worlds: int, buckets: int) -> RunConfig:
    """Return the settings of a run of worlds."""
    config = accuracy.settings(chosen, JOB, run, worlds=worlds, buckets=buckets)
    return replace(config, run=run)


def buckets(chosen: BenchmarkSet) -> int:
    """Return the B that worlds of a set have."""
    return next(b for classes, b in BUCKETS.items() if chosen.classes <= 1.1 * classes)


def mach(chosen: BenchmarkSet, worlds: int) -> Found:
    """Train the worlds in turn, and measure what the first of them give."""
    with tempfile.TemporaryDirectory() as run:
        config = settings(chosen, run, worlds=worlds, buckets=buckets(chosen))
        before = warm(config)
        summary = train(config)
        grown = resident("VmHWM") - before
        assert summary.ensemble is not None
        seconds = seconds_a_world(run)
        evaluation = evaluate(
            Ensemble.load(summary.ensemble),
            str(chosen.test),
            ks=(1, 10, TOP),
            combiners=[COMBINER],
            worlds=[count for count in TOLD if count <= worlds],
            limit=TEST_ROWS,
        )
    return {
        "buckets": config.partition.buckets,
        "seconds_a_world": round(seconds, 2),
        "parameters_a_world": parameters(config),
        "peak_bytes": grown,
        "metrics": {
            str(worlds): {key: round(found[key], 5) for key in ("P@1", "R@10", "R@100")}
            for (_, worlds), found in evaluation.metrics.items()
        },
    }


def one_vs_all(chosen: BenchmarkSet, _: int) -> Found:
    """Train one softmax over all classes: a world whose buckets are the classes."""
    config = settings(chosen, "unnamed", worlds=1, buckets=chosen.classes)
    before = warm(config)
    with closing(World(config.world_config(), 0)) as world:
        began = time.perf_counter()
        world.train()
        seconds = time.perf_counter() - began
        grown = resident("VmHWM") - before
        best, truth = ranked(chosen, config, world.partition, world.classifier.probabilities)
    return told(seconds, parameters(config), grown, metrics(best, truth, chosen.classes))


class Rival(Protocol):
    """A baseline in plain Torch."""

    @property
    def parameters(self) -> int:
        """How many numbers are learnt."""

    def step(self, rows: Bags, labels: torch.Tensor, factor: float) -> float:
        """Make one step and return the loss."""

    def scores(self, rows: Bags) -> torch.Tensor:
        """Return (n, K) scores."""


def sampled(chosen: BenchmarkSet, _: int) -> Found:
    """Train a sampled softmax."""
    return rival(
        chosen,
        lambda: SampledSoftmax(DIMENSION, HIDDEN, chosen.classes, negatives=NEGATIVES),
    )


def mixture(chosen: BenchmarkSet, worlds: int) -> Found:
    """Train a mixture of experts with as many parameters as an ensemble of so many worlds."""
    config = settings(chosen, "unnamed", worlds=worlds, buckets=buckets(chosen))
    wanted = worlds * parameters(config)
    width = max(4, int((1 - EXPERT_SHARE) * wanted / (DIMENSION + chosen.classes)))
    inner = max(4, int(EXPERT_SHARE * wanted / (2 * EXPERTS * width)))
    pool = Pool()
    found = rival(
        chosen,
        lambda: Mixture(DIMENSION, width, chosen.classes, experts=EXPERTS, inner=inner, pool=pool),
    )
    pool.close()
    return {
        **found,
        "as_large_as_worlds": worlds,
        "width": width,
        "inner": inner,
        "experts": EXPERTS,
    }


def rival(chosen: BenchmarkSet, make: Callable[[], Rival]) -> Found:
    """Train a baseline on the same batches as a world, and measure it."""
    config = settings(chosen, "unnamed", worlds=1, buckets=chosen.classes)
    before = warm(config)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    world = config.world_config()
    partition = partition_for(world.partition, chosen.classes, config.seed, 0)
    data = TrainingData(world, 0, partition, {})
    made = make()
    random = np.random.default_rng(0)
    began = time.perf_counter()
    # Batches are made ahead by a thread of their own, as for a world.
    with closing(prefetch(data.batches(Position(), ()), READY_BATCHES)) as batches:
        for step, ready in enumerate(batches):
            factor = 1.0 - step / data.steps
            made.step(bags(ready.examples), one_label(ready.examples, random), factor)
    seconds = time.perf_counter() - began
    grown = resident("VmHWM") - before

    def scores(batch: Any) -> NDArray[np.float32]:
        return made.scores(bags(Rows.of(batch))).numpy()

    best, truth = ranked(chosen, config, partition, scores)
    return told(seconds, made.parameters, grown, metrics(best, truth, chosen.classes))


def ranked(
    chosen: BenchmarkSet, config: RunConfig, partition: Partition, scores: Scores
) -> tuple[NDArray[np.int64], Lists]:
    """Return each test row's best buckets, where every class has one, and those of its labels."""
    featurizer = Featurizer(config.data, config.features, config.seed, 0)
    best, offsets, labels = [], [np.zeros(1, np.int64)], []
    for table in tables_in_order(
        ShardSet(str(chosen.test)), config.data, rows=ASKED, limit=TEST_ROWS
    ):
        batch = featurizer.batch(table, labels=True)
        found = torch.from_numpy(scores(batch)).topk(min(TOP, chosen.classes)).indices
        best.append(found.numpy().astype(np.int64))
        offsets.append(batch.label_offsets[1:] + offsets[-1][-1])
        labels.append(partition.buckets_of(batch.labels).astype(np.int64))
    return np.concatenate(best), Lists(np.concatenate(offsets), np.concatenate(labels))


def warm(config: RunConfig) -> int:
    """Compile and load what a world needs, and return the bytes that the process has then."""
    train_a_little(config.world_config())
    return resident("VmRSS")


def told(seconds: float, parameters: int, grown: int, found: dict[str, float]) -> Found:
    """Return what is kept of a baseline."""
    return {
        "seconds": round(seconds, 2),
        "parameters": parameters,
        "peak_bytes": grown,
        "metrics": {key: found[key] for key in ("P@1", "R@10", "R@100")},
    }


MEASURES: dict[str, Callable[[BenchmarkSet, int], Found]] = {
    "mach": mach,
    "one_vs_all": one_vs_all,
    "sampled": sampled,
    "mixture": mixture,
}
