"""A training step beside its floor, beside plain Torch, and on rows that come from disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import torch

from benchmarks.baselines.plain_torch import PlainTorch
from benchmarks.engine.setting import BATCH, BUCKETS, DIMENSION, HIDDEN, ROUNDS, STEPS, middle
from benchmarks.pace import seconds_a_step
from benchmarks.writing import QUICK
from workers.classifier import BucketClassifier, first_weights
from workers.config import WorldConfig
from workers.kernels.steps import Examples, first_state
from workers.partition import partition_for
from workers.shards import Position
from workers.threads import Pool, spans
from workers.training_data import TrainingData
from workers.world import World

BATCHES = 20 if QUICK else 200
"""Batches held in memory."""
DISK_ROUNDS = 1 if QUICK else 4
DISK_STEPS = 20 if QUICK else 500
WARM_UP = 5 if QUICK else 100
_SIDE = 2048
_COPIED = 1 << 26


def prepared(config: WorldConfig) -> list[Examples]:
    """Return the first batches of a world, ready to train on."""
    partition = partition_for(config.partition, config.data.classes, config.seed, 0)
    batches = TrainingData(config, 0, partition, {}).batches(Position(), ())
    return [ready.examples for ready in islice(batches, BATCHES)]


class Trainer:
    """A classifier that goes round and round over batches held in memory."""

    def __init__(self, config: WorldConfig, examples: Sequence[Examples], pool: Pool) -> None:
        weights = first_weights(config, 0)
        self.classifier = BucketClassifier(
            config, weights, first_state(weights), device="cpu", pool=pool
        )
        self._examples = examples
        self._step = 0

    def seconds(self, steps: int) -> float:
        """Make steps and return what one took."""
        began = time.perf_counter()
        for _ in range(steps):
            batch = self._examples[self._step % len(self._examples)]
            self._step += 1
            self.classifier.train_step(batch, step=self._step, factor=1.0)
        return (time.perf_counter() - began) / steps


def steps_beside_floor_and_torch(
    config: WorldConfig, examples: Sequence[Examples], pool: Pool
) -> dict[str, Any]:
    """Return the seconds of a step, of its floor and of plain Torch, and the ratios."""
    trainer = Trainer(config, examples, pool)
    dtype = torch.bfloat16 if trainer.classifier.bf16 else torch.float32
    plain = PlainTorch(DIMENSION, HIDDEN, BUCKETS, bf16=trainer.classifier.bf16)
    batches = [torch_batch(batch) for batch in examples[:STEPS]]
    distinct = statistics.mean(len(batch.features) for batch in examples)
    operations, moved = floor(distinct, dtype.itemsize)
    rounds: list[dict[str, float]] = []
    trainer.seconds(STEPS)
    for number in range(ROUNDS + 1):
        found = {
            "step": trainer.seconds(STEPS),
            "operations_a_second": product_rate(dtype, pool),
            "bytes_a_second": copy_rate(pool),
            "torch": torch_seconds(plain, batches, pool.threads),
        }
        found["products"] = operations / found["operations_a_second"]
        found["floor"] = found["products"] + moved / found["bytes_a_second"]
        # The first round warms up.
        rounds += [found] if number else []
    medians = {key: statistics.median(entry[key] for entry in rounds) for key in rounds[0]}
    return {
        "features_a_row": round(statistics.mean(len(b.ids) / len(b) for b in examples), 1),
        "distinct_features_a_batch": round(distinct),
        "products_in": str(dtype).removeprefix("torch."),
        "operations": operations,
        "bytes": moved,
        "step_ms": round(1000 * medians["step"], 2),
        "floor_ms": round(1000 * medians["floor"], 2),
        "torch_ms": round(1000 * medians["torch"], 2),
        "gigaflops_a_second": round(medians["operations_a_second"] / 1e9),
        "gigabytes_a_second": round(medians["bytes_a_second"] / 1e9, 1),
        "step_over_floor": middle(entry["step"] / entry["floor"] for entry in rounds),
        "torch_over_step": middle(entry["torch"] / entry["step"] for entry in rounds),
        "step_over_products": middle(entry["step"] / entry["products"] for entry in rounds),
        "torch_over_floor": middle(entry["torch"] / entry["floor"] for entry in rounds),
        "rows_a_second": round(BATCH / medians["step"]),
    }


def floor(distinct: float, product_bytes: int) -> tuple[int, int]:
    """Return the operations and the bytes of a step that no engine can save.

    Three products of (batch, h, B). A read of the batch's distinct rows of the input layer and,
    for their update, a read and a write; of each weight of the head and its two moments a read
    and a write in float32, and of its copy for products a write. The two times are added up, as
    if nothing of the one could hide behind the other; the table tells the products' alone, too.
    """
    operations = 3 * 2 * BATCH * HIDDEN * BUCKETS
    head = HIDDEN * BUCKETS * (3 * 2 * 4 + product_bytes)
    return operations, head + round(3 * distinct * HIDDEN * 4)


def product_rate(dtype: torch.dtype, pool: Pool) -> float:
    """Return the operations a second of one large product: of Torch's threads or ours, the best."""
    left, right = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    out = torch.empty(_SIDE, _SIDE, dtype=dtype)

    def rows(start: int, stop: int) -> None:
        torch.mm(left[start:stop], right.T, out=out[start:stop])

    def whole() -> None:
        torch.mm(left, right.T, out=out)

    chunks = spans(_SIDE, -(-_SIDE // pool.threads))
    torch.set_num_threads(pool.threads)
    seconds = min(best(lambda: pool.run(rows, chunks)), best(whole))
    return 2 * _SIDE**3 / seconds


def copy_rate(pool: Pool) -> float:
    """Return the bytes a second, read and written, of a copy by all threads."""
    source, target = torch.ones(_COPIED), torch.empty(_COPIED)
    return 2 * 4 * _COPIED / best(lambda: pool.copy([(target, source)]))


def best(work: Callable[[], object], times: int = 4) -> float:
    """Return the least seconds that `work` takes, once its pages are touched."""
    work()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def torch_batch(batch: Examples) -> tuple[torch.Tensor, ...]:
    """Return a batch as `PlainTorch.step` takes it."""
    ids, buckets = batch.ids.astype(np.int64), batch.buckets.astype(np.int64)
    arrays = ids, batch.offsets, batch.values, batch.label_offsets, buckets
    return tuple(torch.from_numpy(array) for array in arrays)


def torch_seconds(
    plain: PlainTorch, tensors: Sequence[tuple[torch.Tensor, ...]], threads: int
) -> float:
    """Return the seconds of a step in plain Torch."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    for batch in tensors:
        plain.step(*batch)
    return (time.perf_counter() - began) / len(tensors)


def from_disk(config: WorldConfig, examples: Sequence[Examples], pool: Pool) -> dict[str, Any]:
    """Return what steps take on rows from Parquet, and after them on batches in memory.

    Each round opens the world anew and lets it read its first block before it is timed, so
    that nothing is read while the batches in memory are trained on.
    """
    trainer = Trainer(config, examples, pool)
    rounds = []
    for _ in range(DISK_ROUNDS):
        with closing(World(config, 0)) as world:
            disk = seconds_a_step(world, WARM_UP, DISK_STEPS)
        trainer.seconds(WARM_UP)
        rounds.append((disk, trainer.seconds(DISK_STEPS)))
    return {
        "step_ms": round(1000 * statistics.median(disk for disk, _ in rounds), 2),
        "in_memory_step_ms": round(1000 * statistics.median(memory for _, memory in rounds), 2),
        "throughput": middle(memory / disk for disk, memory in rounds),
        "steps": DISK_STEPS * len(rounds),
    }
