"""One world: its data, its classifier, and the loop that trains it.

Usable alone, in a notebook or on a GPU box without Ray:

    config = WorldConfig(data=DataConfig(train="clicks/", classes=50_000, text=("query",)))
    world = World(config, index=0)
    world.train()
    world.parameters["input.weight"]

gives the same bits as the same world inside a run on a cluster. What happens
outside the weights (checkpoints, reports) is handed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from workers.classifier import (
    BucketClassifier,
    choose_device,
    describe_device,
    first_state,
    first_weights,
    prepare_examples,
)
from workers.config import WorldConfig
from workers.errors import DataError, TrainingError
from workers.features import Featurizer
from workers.kernels.steps import Examples
from workers.partition import partition_for
from workers.prefetch import prefetch
from workers.shards import (
    Block,
    Position,
    ShardSet,
    Slice,
    shuffled_blocks,
    steps_per_epoch,
    tables_in_order,
)
from workers.threads import Pool

_READY_BATCHES = 8
_VALIDATION_BATCH = 1024


class Stopped(Exception):
    """Training was asked to stop, and did so after a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a world is."""

    step: int
    steps: int
    """All steps of all epochs."""
    epoch: int
    loss: float
    """Mean over the steps since the last report."""
    rows_per_second: float
    """Since the last report."""
    seconds: float
    """Of this attempt so far."""
    bucket_accuracy: float | None = None
    """Share of validation rows whose likeliest bucket holds a label; None: not measured yet."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Trained:
    """How far training is: with the tensors, all that a resumed world needs."""

    step: int = 0
    position: Position = field(default_factory=Position)
    bucket_accuracy: float | None = None
    computed_on: tuple[str, ...] = ()
    """Kinds of device of all attempts, the first one's first."""


@dataclass(frozen=True, slots=True)
class _Ready:
    examples: Examples
    after: Position
    block: Block


class World:
    """One bucket classifier, from Parquet shards to weights.

    Args:
        config: of the world.
        index: which world r of the run; seeds everything that is random.

    Raises:
        ConfigError: for settings that cannot work.
        DataError: for shards that cannot be trained on.
    """

    def __init__(self, config: WorldConfig, index: int) -> None:
        self.config = config.validate()
        self.index = index
        self.partition = partition_for(config.partition, config.data.classes, config.seed, index)
        self.device = choose_device(config.runtime.device)
        self._shards = ShardSet(config.data.train)
        self._shards.check_columns(config.data)
        self._validation = self._open_validation()
        self._pool = Pool(config.runtime.threads)
        weights = {n: t.to(self.device) for n, t in first_weights(config, index).items()}
        self._classifier = BucketClassifier(
            config, weights, first_state(weights), device=self.device, pool=self._pool
        )
        self._featurizer = Featurizer(config.data, config.features, config.seed, index)
        self._here = describe_device(self.device, bf16=self._classifier.bf16)
        self._trained = Trained(computed_on=(self._here,))
        self._epoch_steps = steps_per_epoch(
            self._shards.rows,
            block_rows=config.data.block_rows,
            batch_size=config.training.batch_size,
        )
        self.steps = config.training.epochs * self._epoch_steps

    @property
    def classifier(self) -> BucketClassifier:
        """The network in its present state."""
        return self._classifier

    @property
    def step(self) -> int:
        """Steps made so far, those of earlier attempts included."""
        return self._trained.step

    @property
    def bucket_accuracy(self) -> float | None:
        """Of the last validation, or None."""
        return self._trained.bucket_accuracy

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The network's weights by name, float32."""
        return self._classifier.parameters

    @property
    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by name, float32."""
        return self._classifier.state

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the tensors, ready for JSON."""
        return {
            "step": self._trained.step,
            "position": asdict(self._trained.position),
            "bucket_accuracy": self._trained.bucket_accuracy,
            "bf16": self._classifier.bf16,
            "device": self.device,
            "computed_on": list(self._trained.computed_on),
        }

    def restore(
        self, parameters: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Go on from what `parameters`, `optimizer_state` and `state` were."""
        self._classifier.restore(parameters, optimizer)
        self._trained = Trained(
            step=state["step"],
            position=Position(**state["position"]),
            bucket_accuracy=state["bucket_accuracy"],
            computed_on=tuple(dict.fromkeys([*state["computed_on"], self._here])),
        )

    def train(
        self,
        *,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[Progress], None] = lambda progress: None,
        checkpoint: Callable[[World], None] = lambda world: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Train to the end of the last epoch.

        Args:
            stop: asked before every step; once true, training checkpoints and ends.
            report: told every `runtime.report_steps` steps and at the end of every epoch.
            checkpoint: called every `runtime.checkpoint_steps` steps.
            clock: seconds, for the rates in reports.

        Raises:
            Stopped: if `stop` turned true.
            TrainingError: if the loss is no longer a number; names step and shards.
            DataError: if rows cannot be trained on; names step, shard and row group.
        """
        meter = _Meter(self.steps, clock)
        runtime = self.config.runtime
        with closing(prefetch(self._batches(), _READY_BATCHES)) as batches:
            for ready in self._explained(batches):
                if stop():
                    checkpoint(self)
                    raise Stopped(f"world {self.index} stopped at step {self.step}")
                meter.add(self._train_on(ready), len(ready.examples))
                ended_epoch = self.step % self._epoch_steps == 0
                if ended_epoch:
                    self._trained.bucket_accuracy = self._validate()
                if ended_epoch or self.step % runtime.report_steps == 0:
                    report(meter.progress(self._trained, ready.block.epoch))
                if self.step % runtime.checkpoint_steps == 0 and self.step < self.steps:
                    checkpoint(self)

    def close(self) -> None:
        """End the world's threads."""
        self._pool.close()

    def _train_on(self, ready: _Ready) -> float:
        trained = self._trained
        factor = 1.0 - trained.step / self.steps
        trained.step += 1
        loss = self._classifier.train_step(ready.examples, step=trained.step, factor=factor)
        trained.position = ready.after
        if not math.isfinite(loss):
            raise TrainingError(
                f"world {self.index}, step {trained.step}: expected a finite loss, found {loss},"
                f" on rows of {self._where(ready.block.pieces)}; look there for values that are"
                " not finite or very large, or lower optimizer.rate and optimizer.input_rate"
            )
        return loss

    def _batches(self) -> Iterator[_Ready]:
        data, size = self.config.data, self.config.training.batch_size
        start = self._trained.position
        blocks = shuffled_blocks(
            self._shards,
            data,
            seed=self.config.seed,
            world=self.index,
            epochs=self.config.training.epochs,
            start=start,
        )
        with closing(prefetch(blocks, 1)) as ahead:
            for block in ahead:
                resumed = (block.epoch, block.index) == (start.epoch, start.block)
                rows = block.table.num_rows
                for row in range(start.row if resumed else 0, rows, size):
                    end = min(row + size, rows)
                    batch = self._featurizer.batch(block.table.slice(row, end - row), labels=True)
                    yield _Ready(
                        prepare_examples(batch, self.partition),
                        Position(epoch=block.epoch, block=block.index, row=end),
                        block,
                    )

    def _explained(self, batches: Iterator[_Ready]) -> Iterator[_Ready]:
        try:
            yield from batches
        except DataError as error:
            place = f"world {self.index}, step {self.step + 1}"
            raise type(error)(f"{place}: {error}") from error

    def _where(self, pieces: tuple[Slice, ...]) -> str:
        return " and ".join(dict.fromkeys(self._shards.where(piece) for piece in pieces))

    def _open_validation(self) -> ShardSet | None:
        if self.config.data.validation is None:
            return None
        shards = ShardSet(self.config.data.validation)
        shards.check_columns(self.config.data)
        return shards

    def _validate(self) -> float | None:
        data = self.config.data
        if self._validation is None:
            return None
        hits = rows = 0
        for table in tables_in_order(
            self._validation, data, rows=_VALIDATION_BATCH, limit=data.validation_rows
        ):
            batch = self._featurizer.batch(table, labels=True)
            best = self._classifier.probabilities(batch).argmax(1)
            owner = np.repeat(np.arange(len(batch)), np.diff(batch.label_offsets))
            hit = self.partition.buckets_of(batch.labels) == best[owner]
            hits += len(np.unique(owner[hit]))
            rows += len(batch)
        return hits / rows


class _Meter:
    # Loss and rate since the last report.

    def __init__(self, steps: int, clock: Callable[[], float]) -> None:
        self._steps = steps
        self._clock = clock
        self._began = self._since = clock()
        self._losses: list[float] = []
        self._rows = 0

    def add(self, loss: float, rows: int) -> None:
        self._losses.append(loss)
        self._rows += rows

    def progress(self, trained: Trained, epoch: int) -> Progress:
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        progress = Progress(
            step=trained.step,
            steps=self._steps,
            epoch=epoch,
            loss=sum(self._losses) / max(1, len(self._losses)),
            rows_per_second=self._rows / seconds,
            seconds=now - self._began,
            bucket_accuracy=trained.bucket_accuracy,
        )
        self._losses, self._rows, self._since = [], 0, now
        return progress
