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
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from workers.classifier import (
    BucketClassifier,
    choose_device,
    describe_device,
    first_weights,
)
from workers.config import WorldConfig
from workers.errors import DataError, StorageError, TrainingError
from workers.features import Featurizer
from workers.kernels.steps import first_state
from workers.lsh.network import first_codes
from workers.partition import partition_for
from workers.prefetch import prefetch
from workers.shards import Content, LeftOut, Position, ShardSet, read_left_out, tables_in_order
from workers.threads import Pool
from workers.training_data import Ready, TrainingData

READY_BATCHES = 8
"""Batches that are made ahead of the one that is trained on."""
_VALIDATION_BATCH = 1024


class Stopped(Exception):
    """Training was asked to stop, and did so between two steps."""


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
    """Since the last report, without the time of a validation."""
    seconds: float
    """Of this attempt so far."""
    rows: int = 0
    """Trained on since the last report."""
    bucket_accuracy: float | None = None
    """Share of validation rows whose likeliest bucket holds a label; None: not measured yet."""
    epoch_ended: bool = False
    """Whether this is the report at the end of its epoch."""
    trouble: str | None = None
    """What keeps going wrong while training goes on, such as a full disk; None: nothing."""
    left_out_rows: int = 0
    """Rows that are left out because they cannot be trained on (`data.on_bad_shard`)."""
    device: str = ""
    """What computes, in the words of `workers.classifier.describe_device`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Trained:
    """How far training is: with the tensors, all that a resumed world needs."""

    step: int = 0
    position: Position = field(default_factory=Position)
    bucket_accuracy: float | None = None
    left_out: tuple[LeftOut, ...] = ()
    computed_on: tuple[str, ...] = ()
    """Kinds of device of all attempts, the first one's first."""


class World:
    """One bucket classifier, from Parquet shards to weights.

    Args:
        config: of the world.
        index: which world r of the run; seeds everything that is random.
        dataset: what the run remembers of its training data, which must be the same here: the
            `fingerprint` of the shards and, once a world has finished, the `content` that it
            read; None: take what is there.

    Raises:
        ConfigError: for settings that cannot work.
        DataError: for shards that cannot be trained on.
    """

    def __init__(
        self, config: WorldConfig, index: int, dataset: Mapping[str, Any] | None = None
    ) -> None:
        self.config = config.validate()
        self.index = index
        self.partition = partition_for(config.partition, config.data.classes, config.seed, index)
        self.device = choose_device(config.runtime.device)
        self._data = TrainingData(config, index, self.partition, dataset or {})
        self._validation = self._open_validation()
        self._pool = Pool(config.runtime.threads)
        weights = {n: t.to(self.device) for n, t in first_weights(config, index).items()}
        self._classifier = BucketClassifier(
            config,
            weights,
            first_state(weights) | first_codes(config),
            device=self.device,
            pool=self._pool,
        )
        self._featurizer = Featurizer(config.data, config.features, config.seed, index)
        made = self._classifier
        self._here = describe_device(self.device, bf16=made.bf16, kernels=made.kernels)
        self._trained = Trained(left_out=self._data.left_out, computed_on=(self._here,))

    @property
    def classifier(self) -> BucketClassifier:
        """The network in its present state."""
        return self._classifier

    @property
    def steps(self) -> int:
        """Steps of all epochs, as many as the shards' footers let one expect."""
        return self._data.steps

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Row groups that were left out so far, because they cannot be trained on."""
        return self._trained.left_out

    @property
    def content(self) -> Content:
        """What was read so far of the training data: worlds of one run must read the same."""
        return self._data.content

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
    def model(self) -> dict[str, Tensor]:
        """What predicts: the weights, and where prediction is by hash tables what those need."""
        return self._classifier.model()

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
            "left_out": [asdict(entry) for entry in self._trained.left_out],
            "data": self._data.state(),
            "bf16": self._classifier.bf16,
            "device": self.device,
            "computed_on": list(self._trained.computed_on),
        }

    def restore(
        self, parameters: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Go on from what `parameters`, `optimizer_state` and `state` were.

        Raises:
            DataError: the shards are not those that the state was made with.
            StorageError: if they are those of another network, or no state at all.
        """
        trained = _trained(state)
        try:
            self._data.restore(state["data"])
        except (KeyError, TypeError) as error:
            raise _not_a_state(repr(error)) from error
        if trained.step > self.steps or not self._data.has(trained.position):
            raise _not_a_state(f"step {trained.step} of {self.steps} at {trained.position}")
        self._classifier.restore(parameters, optimizer)
        trained.computed_on = tuple(dict.fromkeys([*trained.computed_on, self._here]))
        self._trained = trained

    def copy_to(self, parameters: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Copy `parameters` and `optimizer_state` into tensors of the host, of the same shapes."""
        pairs = [(parameters[name], tensor) for name, tensor in self.parameters.items()]
        pairs += [(optimizer[name], tensor) for name, tensor in self.optimizer_state.items()]
        self._pool.copy(pairs)

    def train(
        self,
        *,
        stop: Callable[[], bool] = lambda: False,
        stop_waiting: Callable[[], bool] = lambda: False,
        report: Callable[[Progress], None] = lambda progress: None,
        checkpoint: Callable[[World], bool] = lambda world: True,
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Train to the end of the last epoch.

        Args:
            stop: asked once before every step; once true, training ends there.
            stop_waiting: asked again and again while rows are waited for; likewise.
            report: told every `runtime.report_steps` steps and at the end of every epoch.
            checkpoint: called every `runtime.checkpoint_steps` steps; where it returns False,
                again after every step until it returns True.
            beat: a sign of life, called after every step and every batch of the validation.
            clock: seconds, for the rates in reports.

        Raises:
            Stopped: if `stop` or `stop_waiting` turned true.
            TrainingError: if the loss is no longer a number; names step and shards.
            DataError: if rows cannot be trained on; names step, shard and row group.
        """
        meter = _Meter(self.steps, self._here, clock)
        runtime = self.config.runtime
        due = False

        def halt(asked: Callable[[], bool]) -> None:
            if asked():
                raise Stopped(f"world {self.index} stopped at step {self.step}")

        stream = self._data.batches(self._trained.position, self._trained.left_out)
        with closing(
            prefetch(stream, READY_BATCHES, waiting=lambda: halt(stop_waiting))
        ) as batches:
            for ready in self._explained(batches):
                halt(stop)
                meter.add(self._train_on(ready), len(ready.examples))
                beat()
                if ready.ends_epoch:
                    with meter.paused():
                        self._trained.bucket_accuracy = self._validate(beat)
                if ready.ends_epoch or self.step % runtime.report_steps == 0:
                    report(meter.progress(self._trained, ready.block.epoch, ready.ends_epoch))
                due = due or self.step % runtime.checkpoint_steps == 0
                if due and self.step < self.steps:
                    due = not checkpoint(self)
        # What was left out after the last batch.
        self._trained.left_out = self._data.left_out

    def close(self) -> None:
        """End the world's threads."""
        self._pool.close()

    def _train_on(self, ready: Ready) -> float:
        trained = self._trained
        factor = 1.0 - trained.step / self.steps
        trained.step += 1
        loss = self._classifier.train_step(ready.examples, step=trained.step, factor=factor)
        trained.position, trained.left_out = ready.after, ready.block.left_out
        if not math.isfinite(loss):
            raise TrainingError(
                f"world {self.index}, step {trained.step}: expected a finite loss, found {loss},"
                f" on rows of {self._data.where(ready.block.pieces)}; look there for values that"
                " are not finite or very large, or lower optimizer.rate and optimizer.input_rate"
            )
        return loss

    def _explained(self, batches: Iterator[Ready]) -> Iterator[Ready]:
        try:
            yield from batches
        except DataError as error:
            place = f"world {self.index}, step {self.step + 1}"
            raise type(error)(f"{place}: {error}") from error

    def _open_validation(self) -> ShardSet | None:
        if self.config.data.validation is None:
            return None
        shards = ShardSet(self.config.data.validation)
        shards.check_columns(self.config.data)
        return shards

    def _validate(self, beat: Callable[[], None]) -> float | None:
        data = self.config.data
        if self._validation is None:
            return None
        hits = rows = 0
        for table in tables_in_order(
            self._validation, data, rows=_VALIDATION_BATCH, limit=data.validation_rows
        ):
            batch = self._featurizer.batch(table, labels=True)
            best = self._classifier.probabilities(batch).argmax(1)
            hits += batch.rows_found(self.partition.buckets_of(batch.labels), best)
            rows += len(batch)
            beat()
        return hits / rows


def _trained(state: Mapping[str, Any]) -> Trained:
    try:
        trained = Trained(
            step=state["step"],
            position=Position(**state["position"]),
            bucket_accuracy=state["bucket_accuracy"],
            left_out=tuple(read_left_out(state["left_out"])),
            computed_on=tuple(state["computed_on"]),
        )
        counts = [trained.step, *asdict(trained.position).values()]
        good = all(type(count) is int and count >= 0 for count in counts)
        good &= isinstance(trained.bucket_accuracy, float | None)
        good &= all(isinstance(kind, str) for kind in trained.computed_on)
    except (KeyError, TypeError) as error:
        raise _not_a_state(repr(error)) from error
    if not good:
        raise _not_a_state(repr(trained))
    return trained


def _not_a_state(found: str) -> StorageError:
    return StorageError(
        f"state of a world: expected what a checkpoint keeps, found {found};"
        " the checkpoint was altered: remove it"
    )


class _Meter:
    # Loss and rate since the last report.

    def __init__(self, steps: int, device: str, clock: Callable[[], float]) -> None:
        self._steps = steps
        self._device = device
        self._clock = clock
        self._began = self._since = clock()
        self._losses: list[float] = []
        self._rows = 0

    def add(self, loss: float, rows: int) -> None:
        self._losses.append(loss)
        self._rows += rows

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = self._clock()
        yield
        # Else the rate of few steps and a long validation would tell nothing of the steps.
        self._since += self._clock() - began

    def progress(self, trained: Trained, epoch: int, epoch_ended: bool) -> Progress:
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        progress = Progress(
            step=trained.step,
            steps=self._steps,
            epoch=epoch,
            loss=sum(self._losses) / max(1, len(self._losses)),
            rows_per_second=self._rows / seconds,
            seconds=now - self._began,
            rows=self._rows,
            bucket_accuracy=trained.bucket_accuracy,
            epoch_ended=epoch_ended,
            left_out_rows=sum(entry.rows for entry in trained.left_out),
            device=self._device,
        )
        self._losses, self._rows, self._since = [], 0, now
        return progress
