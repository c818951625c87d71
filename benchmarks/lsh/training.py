"""Worlds in which each row computes a share of the neurons, however these are chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks.datasets import BenchmarkSet
from benchmarks.kept import Found
from benchmarks.lsh.choosers import AtRandom, Dropout, Winners
from benchmarks.lsh.masked import MaskedSteps
from benchmarks.pace import seconds_a_step
from orchestrator.ensemble.combiners import combiner
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.retrieval import full
from workers.batch import Batch
from workers.classifier import BucketPredictor, choose_bf16
from workers.config import WorldConfig
from workers.features import Featurizer
from workers.kernels.active import Tally
from workers.kernels.steps import Steps
from workers.lsh.chooser import Chooser
from workers.lsh.network import hash_chooser, hashed_steps, kept_neurons, layers_of
from workers.lsh.shared import SharedSteps
from workers.lsh.steps import ActiveSteps
from workers.threads import Pool
from workers.world import World

ROWS = 1024
"""Test rows that are asked together."""
MASKED = 0.1
"""Share from which on buckets that hash tables name are left out of products of whole matrices."""
COUNTED = 3
"""Steps of a dense world whose operations are counted."""


def trained(config: WorldConfig, system: str, index: int, pool: Pool) -> tuple[World, Found]:
    """Return a world that was trained, and what that took.

    Args:
        config: of the world; its `model.active` is the share of neurons, however they are chosen.
        system: one of `choosers.CHOOSERS`.
        index: of the world.
        pool: threads that choose.
    """
    world = World(config, index)
    steps = steps_of(world, system, pool)
    if steps is not None:
        world.classifier.compute_by(steps)
    began = time.perf_counter()
    world.train()
    found: Found = {"seconds": round(time.perf_counter() - began, 2), "steps": world.step}
    world.close()
    if isinstance(steps, ActiveSteps | SharedSteps | MaskedSteps):
        found["operations"] = told(steps.tally)
    return world, found


def steps_of(world: World, system: str, pool: Pool) -> Steps | None:
    """Return what computes a world's steps; None: what it has, which is dense."""
    config, parameters, state = world.config, world.parameters, world.optimizer_state
    share, sizes = config.model.active, layers_of(config)
    if share == 1:
        return None
    by_masks = [layer.hashed for layer in sizes] == [False, True]
    if system == "hashing" and (share < MASKED or not by_masks):
        return hashed_steps(config, parameters, state, bf16=world.classifier.bf16, pool=pool)
    bf16 = by_masks and choose_bf16(config.training.precision, "cpu")
    wanted, chooser = [layer.active for layer in sizes], chooser_of(world, system, bf16, pool)
    if system == "dropout":
        # Room for five standard deviations more than the mean.
        room = [n + int(5 * (n * (1 - share)) ** 0.5) + 1 for n in wanted]
        wanted = [
            min(most, layer.width - 1) if layer.hashed else layer.width
            for most, layer in zip(room, sizes, strict=True)
        ]
    if not by_masks:
        return active_steps(world, wanted, chooser, pool)
    return MaskedSteps(
        parameters,
        state,
        loss=config.model.loss,
        relu=config.model.activation == "relu",
        bf16=bf16,
        wanted=wanted[-1],
        chooser=chooser,
        pool=pool,
    )


def chooser_of(world: World, system: str, bf16: bool, pool: Pool) -> Chooser:
    """Return what chooses the active neurons of a world, by products in bf16 if by any."""
    config, parameters = world.config, world.parameters
    if system == "hashing":
        return hash_chooser(config, parameters, world.optimizer_state, pool)
    if system == "winners":
        return Winners(parameters, bf16=bf16)
    if system == "dropout":
        return Dropout(config.seed, config.model.active)
    return AtRandom(config.seed)


def active_steps(world: World, wanted: list[int], chooser: Chooser, pool: Pool) -> ActiveSteps:
    """Return steps of a world in which so many neurons of each layer are active."""
    model = world.config.model
    return ActiveSteps(
        world.parameters,
        world.optimizer_state,
        loss=model.loss,
        relu=model.activation == "relu",
        wanted=wanted,
        chooser=chooser,
        pool=pool,
    )


def dense_operations(config: WorldConfig, pool: Pool) -> Found:
    """Return what some dense steps take, counted by the kernels that count active neurons."""
    world = World(replace(config, model=replace(config.model, active=1.0)), 0)
    steps = active_steps(world, [layer.width for layer in layers_of(config)], AtRandom(0), pool)
    world.classifier.compute_by(steps)
    seconds_a_step(world, 0, COUNTED)
    world.close()
    return {"steps": world.step, **told(steps.tally)}


def told(tally: Tally) -> Found:
    """Return a tally in words."""
    return dict(zip(("multiplications", "additions", "bytes"), tally.tolist(), strict=True))


def bucket_accuracy(world: World, chosen: BenchmarkSet, system: str) -> float:
    """Return the share of test rows whose likeliest bucket holds a label."""
    hits = rows = 0
    with Pool() as pool:
        predictor = predictor_of(world, system, pool)
        for batch in batches(world.config, chosen, world.index):
            best = predictor.probabilities(batch).argmax(1).numpy()
            hits += batch.rows_found(world.partition.buckets_of(batch.labels), best)
            rows += len(batch)
    return hits / rows


def merged_precision(worlds: Sequence[World], chosen: BenchmarkSet, system: str) -> float:
    """Return P@1 of the worlds merged by the default combiner of a softmax."""
    hits = rows = 0
    with Pool() as pool:
        predictors = [predictor_of(world, system, pool) for world in worlds]
        lookup = BucketLookup([world.partition for world in worlds], pool)
        by = combiner("log")
        streams = [batches(world.config, chosen, world.index) for world in worlds]
        for parts in zip(*streams, strict=True):
            scores = [
                by.transform(predictor.probabilities(part).numpy())
                for predictor, part in zip(predictors, parts, strict=True)
            ]
            best, _ = full(np.stack(scores), lookup, 1, by, pool)
            hits += parts[0].rows_found(parts[0].labels, best[:, 0])
            rows += len(parts[0])
    return hits / rows


def predictor_of(world: World, system: str, pool: Pool) -> BucketPredictor:
    """Return what predicts with a world's weights, as fits how it learnt."""
    config, weights = world.config, world.model
    if system != "hashing":
        # No hash tables: the highest hidden neurons fire, as many as in training.
        model = replace(config.model, lsh=replace(config.model.lsh, predict="dense"))
        config, weights = replace(config, model=model), dict(world.parameters)
    if system in ("random", "dropout"):
        # All neurons fire, and say as much together as the few did.
        for layer in kept_neurons(config):
            name = f"layer.{layer}.weight"
            weights[name] = weights[name] * config.model.active
        config = replace(config, model=replace(config.model, active=1.0))
    return BucketPredictor(config, weights, device="cpu", pool=pool)


def batches(config: WorldConfig, chosen: BenchmarkSet, world: int) -> Iterator[Batch]:
    """Yield the test rows of a set as a world sees them."""
    featurizer = Featurizer(config.data, config.features, config.seed, world)
    found = ds.dataset(str(chosen.test))
    for part in found.to_batches(columns=config.data.columns(), batch_size=ROWS):
        if len(part):
            yield featurizer.batch(pa.Table.from_batches([part]), labels=True)
