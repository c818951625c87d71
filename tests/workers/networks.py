"""Small networks and batches that kernels are compared on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tests.workers.builders import world_config
from workers.batch import Batch
from workers.classifier import first_weights, prepare_examples
from workers.config import WorldConfig
from workers.kernels.steps import Examples, Steps, Tensors
from workers.partition import PermutationPartition

INPUT_RATE, RATE = 0.3, 0.01


def shapes(*hidden: tuple[int, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Return what `network` may be given, with hidden layers of these widths."""
    return st.fixed_dictionaries(
        {
            "d": st.integers(2, 60),
            "hidden": st.sampled_from(hidden),
            "buckets": st.integers(2, 33),
            "activation": st.sampled_from(["linear", "relu"]),
            "loss": st.sampled_from(["softmax", "bce"]),
        }
    )


def network(
    *,
    d: int = 40,
    hidden: tuple[int, ...] = (8,),
    buckets: int = 12,
    activation: str = "relu",
    loss: str = "softmax",
) -> tuple[WorldConfig, Tensors]:
    """Return first weights whose biases are not zero either."""
    config = world_config(
        "-",
        dimension=d,
        hidden=hidden,
        buckets=buckets,
        classes=5 * buckets,
        activation=activation,
        loss=loss,
    )
    weights = first_weights(config, 0)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in weights.items():
        tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
        assert tensor.is_contiguous(), name
    return config, weights


def batch_of(rng: np.random.Generator, rows: int, config: WorldConfig, *, labels: int = 3) -> Batch:
    """Return random rows: some without features, some with many labels, weights from 0 to 2."""
    d = config.features.dimension
    sizes = rng.integers(0, min(9, d), rows)
    counts = rng.integers(1, labels + 1, rows)
    ids = [rng.permutation(d)[:size] for size in sizes]
    return Batch(
        feature_offsets=np.concatenate([[0], sizes.cumsum()]).astype(np.int64),
        feature_ids=np.concatenate([*ids, []]).astype(np.int32),
        feature_values=rng.normal(size=sizes.sum()).astype(np.float32),
        label_offsets=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        labels=rng.integers(0, config.data.classes, counts.sum()),
        weights=rng.uniform(0, 2, rows).astype(np.float32),
    )


def examples_of(batch: Batch, config: WorldConfig) -> Examples:
    partition = PermutationPartition(config.data.classes, config.partition.buckets, 9)
    return prepare_examples(batch, partition)


def trained(
    steps: Steps, parameters: Tensors, batches: list[Examples]
) -> tuple[Tensors, list[float]]:
    losses = [
        steps.train(examples, step=step + 1, input_rate=INPUT_RATE, rate=RATE)
        for step, examples in enumerate(batches)
    ]
    return parameters, losses


def difference(one: Tensors, other: Tensors, start: Tensors) -> float:
    """Return how far two trainings ended apart, over how far they went."""
    apart = sum(float((one[n] - other[n]).double().square().sum()) for n in start)
    moved = sum(float((other[n] - start[n]).double().square().sum()) for n in start)
    assert moved > 0
    return float((apart / moved) ** 0.5)
