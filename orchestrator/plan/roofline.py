"""How long a step takes at least, from what it computes and moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.config import RunConfig
from orchestrator.plan.size import Data

PRODUCTS_SHARE = 0.5
"""Of the peak of matrix products that a step reaches."""
BANDWIDTH_SHARE = 0.7
"""Of the peak of memory traffic, likewise."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one step of one world computes and moves."""

    operations: float
    """Multiplications and additions."""
    bytes: float
    """Read and written in the memory of the device."""

    def seconds(self, *, tflops: float, bandwidth: float) -> float:
        """Return how long it takes a device: products and traffic one after the other.

        Args:
            tflops: peak of its matrix products, in 10^12 operations a second.
            bandwidth: peak of its memory, in 10^9 bytes a second.
        """
        products = self.operations / (PRODUCTS_SHARE * tflops * 1e12)
        return products + self.bytes / (BANDWIDTH_SHARE * bandwidth * 1e9)


def work_of(config: RunConfig, data: Data, *, bf16: bool) -> Work:
    """Return what one step computes and moves, all neurons computed.

    Products: three for each dense layer, forward and for both gradients, of 2 operations a weight
    and row; two passes over the rows of the input layer that a batch touches. Traffic: the input
    layer's rows forward, their gradients, and touched rows read and written; a dense weight with
    its two moments read and written, its gradient written and read, and its copies for the
    products; activations written and read for each product.

    Args:
        config: of the run.
        data: of the run.
        bf16: whether products are taken in bf16.
    """
    rows, number = config.training.batch_size, 2 if bf16 else 4
    hidden, dimension = config.model.hidden, config.features.dimension
    width, features = hidden[0], rows * data.row.features
    # Features that fall on the same row of the input layer touch it once.
    touched = dimension * -math.expm1(-features / dimension)
    dense = sum(
        inputs * outputs for inputs, outputs in pairwise([*hidden, config.partition.buckets])
    )
    table = 4.0 * width * (2 * features + 2 * touched)
    optimizer = dense * (24.0 + 5 * number)
    activations = rows * number * (4.0 * config.partition.buckets + 6 * sum(hidden))
    return Work(
        operations=6.0 * rows * dense + 4.0 * features * width,
        bytes=table + optimizer + activations,
    )
