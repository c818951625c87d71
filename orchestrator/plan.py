"""What a run will take, before any of it is spent."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from orchestrator.config import RunConfig
from workers.shards import ShardSet, steps_per_epoch

_INFLATION = 4
"""Bytes in memory for each byte of compressed Parquet, roughly."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a run; one world's part of it where not said otherwise."""

    worlds: int
    rows: int
    """Of the training data."""
    data_bytes: int
    """Of the training shards as they are stored."""
    parameters: int
    steps: int
    memory: int
    """Bytes on the device while training, estimated."""
    host_memory: int
    """Bytes for blocks of rows, estimated."""
    read: int
    """Bytes that all worlds read together, at most: columns that no world asks for stay unread."""

    @property
    def ensemble_bytes(self) -> int:
        """Bytes of all worlds' float32 weights."""
        return self.worlds * self.parameters * 4


def plan(config: RunConfig, shards: ShardSet) -> Plan:
    """Return what a run of `config` on `shards` takes."""
    size = sum(shards.sizes)
    epoch = steps_per_epoch(
        shards.rows, block_rows=config.data.block_rows, batch_size=config.training.batch_size
    )
    block = min(config.data.block_rows, shards.rows) * size * _INFLATION // shards.rows
    return Plan(
        worlds=config.worlds,
        rows=shards.rows,
        data_bytes=size,
        parameters=parameters(config),
        steps=epoch * config.training.epochs,
        memory=memory(config),
        host_memory=3 * block,
        read=size * config.training.epochs * config.worlds,
    )


def parameters(config: RunConfig) -> int:
    """Return the number of weights and biases of one world."""
    widths = [config.features.dimension, *config.model.hidden, config.partition.buckets]
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))


def memory(config: RunConfig) -> int:
    """Return an estimate of a world's bytes in training.

    float32 weights; one float of Adagrad for each of the d rows of the input
    layer; two floats of Adam, a gradient and a bf16 copy for every other
    parameter; activations and their gradients, (batch, width) float32 of every
    layer.
    """
    count = parameters(config)
    dense = count - config.features.dimension * config.model.hidden[0]
    widths = sum(config.model.hidden) + config.partition.buckets
    activations = 2 * 4 * config.training.batch_size * widths
    return 4 * count + 4 * config.features.dimension + (8 + 4 + 2) * dense + activations
