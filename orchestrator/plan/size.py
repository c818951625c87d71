"""What a run takes in parameters, bytes and steps, before any of it is spent."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from orchestrator.config import RunConfig
from workers.classifier import choose_bf16
from workers.memory import Memory, RowSize, predict, row_size
from workers.shards import ShardSet, steps_per_epoch

_FEATURE_BYTES = 8
_ROW_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Data:
    """The training data, read or told."""

    rows: int
    stored: int | None
    """Bytes of the shards; None: there are none yet."""
    row: RowSize

    @staticmethod
    def read(config: RunConfig, shards: ShardSet) -> Data:
        """Return the data of `shards`, from what they say of themselves and their first rows.

        Raises:
            DataError: if no row group can be read, or its rows cannot be trained on.
        """
        return Data(
            rows=shards.rows,
            stored=sum(shards.sizes),
            row=row_size(shards, config.world_config()),
        )

    @staticmethod
    def told(rows: int, features: float) -> Data:
        """Return data of so many rows with so many features each."""
        each = _ROW_BYTES + _FEATURE_BYTES * features
        return Data(rows=rows, stored=None, row=RowSize(bytes=each, features=features))


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a run; one world's part of it where not said otherwise."""

    worlds: int
    rows: int
    """Of the training data."""
    stored: int | None
    """Bytes of the training shards; None: there are none yet."""
    parameters: int
    steps: int
    memory: Memory
    """Of one world at its peak, predicted."""
    on_gpu: bool
    """Whether worlds are expected to train on GPUs."""
    epochs: int

    @property
    def read(self) -> int | None:
        """Bytes that all worlds read at most: columns that no world asks for stay unread."""
        return None if self.stored is None else self.stored * self.epochs * self.worlds

    @property
    def ensemble_bytes(self) -> int:
        """Bytes of all worlds' float32 weights."""
        return self.worlds * self.parameters * 4


def size_of(config: RunConfig, data: Data, *, on_gpu: bool | None = None) -> Size:
    """Return what a run of `config` on `data` takes.

    Args:
        config: of the run.
        data: of the run.
        on_gpu: whether worlds train on GPUs; None: as far as this machine can tell.
    """
    on_gpu = expects_gpus(config) if on_gpu is None else on_gpu
    training, world = config.training, config.world_config()
    epoch = steps_per_epoch(
        data.rows, block_rows=config.data.block_rows, batch_size=training.batch_size
    )
    steps = epoch * training.epochs
    memory = predict(
        world,
        bf16=takes_bf16(config, on_gpu),
        on_gpu=on_gpu,
        rows=data.rows,
        row=data.row,
        steps=steps,
    )
    return Size(
        worlds=config.worlds,
        rows=data.rows,
        stored=data.stored,
        parameters=parameters(config),
        steps=steps,
        memory=memory,
        on_gpu=on_gpu,
        epochs=training.epochs,
    )


def takes_bf16(config: RunConfig, on_gpu: bool) -> bool:
    """Return whether a world's products are taken in bf16.

    Without a GPU here to ask, the workers' are taken for modern ones.
    """
    precision = config.training.precision
    return precision != "fp32" if on_gpu else choose_bf16(precision, "cpu")


def parameters(config: RunConfig) -> int:
    """Return the number of weights and biases of one world."""
    widths = [config.features.dimension, *config.model.hidden, config.partition.buckets]
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))


def expects_gpus(config: RunConfig) -> bool:
    """Return whether worlds will train on GPUs, as far as this machine can tell."""
    gpus, device = config.cluster.gpus_per_world, config.runtime.device
    if device != "auto":
        return device != "cpu"
    return torch.cuda.is_available() if gpus == "auto" else bool(gpus)
