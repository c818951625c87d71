"""What a run will take, before any of it is spent."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from orchestrator.config import RunConfig
from workers.classifier import choose_bf16
from workers.memory import Memory, predict, row_size
from workers.shards import ShardSet, steps_per_epoch


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
    memory: Memory
    """Of one world at its peak, predicted."""
    on_gpu: bool
    """Whether worlds are expected to train on GPUs."""
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
    steps = epoch * config.training.epochs
    on_gpu, world = expects_gpus(config), config.world_config()
    precision = config.training.precision
    # Without a GPU here to ask, the workers' are taken for modern ones.
    bf16 = precision != "fp32" if on_gpu else choose_bf16(precision, "cpu")
    return Plan(
        worlds=config.worlds,
        rows=shards.rows,
        data_bytes=size,
        parameters=parameters(config),
        steps=steps,
        memory=predict(
            world,
            bf16=bf16,
            on_gpu=on_gpu,
            rows=shards.rows,
            row=row_size(shards, world),
            steps=steps,
        ),
        on_gpu=on_gpu,
        read=size * config.training.epochs * config.worlds,
    )


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
