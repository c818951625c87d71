"""How much memory a world takes at its peak, told before it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.classifier import parameter_shapes
from workers.config import WorldConfig
from workers.shards import RowSize

_BLOCKS = 8
"""Blocks' worth of rows in memory: the block that is trained on, the one that is ready, the one
that is read and then shuffled into a copy, the rests of the row groups that blocks cut, and what
Arrow keeps."""
_BATCHES = 10
"""Batches in memory: those that are ready, the one that is made and the one that is trained on."""
_FEATURE_BYTES = 18
"""Of a feature in a batch, in the order of rows and in that of features."""
_BESIDE = 60_000_000
"""What threads, allocators and the library of products keep for themselves."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak bytes of one world in training, by what they are for."""

    weights: int
    """float32, and their copies for products in bf16."""
    optimizer: int
    """One float32 of Adagrad a row of the input layer, two of Adam for all other parameters."""
    activations: int
    """Of a batch: logits, hidden layers and their gradients."""
    checkpoint: int
    """Host memory for the copy that is written beside the training; 0: none is due."""
    rows: int
    """Host memory for blocks and batches."""

    @property
    def device(self) -> int:
        """Bytes where it computes."""
        return self.weights + self.optimizer + self.activations

    @property
    def host(self) -> int:
        """Bytes beside those on the device, without Python and its libraries."""
        return self.checkpoint + self.rows

    @property
    def total(self) -> int:
        """Bytes of a world that computes on the CPU, without Python and its libraries."""
        return self.device + self.host


def predict(
    config: WorldConfig,
    *,
    bf16: bool,
    rows: int,
    row: RowSize,
    steps: int,
) -> Memory:
    """Return the peak bytes of a world.

    K is in none of it: a partition is computed, not stored.

    Args:
        config: of the world.
        bf16: whether products are taken in bf16 (`workers.classifier.choose_bf16`).
        rows: of the training data.
        row: what one takes on average (`workers.shards.row_size`).
        steps: of all epochs.
    """
    shapes = parameter_shapes(config)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    parameters, table = sum(sizes.values()), sizes["input.weight"]
    dense = parameters - table
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    products = sum(sizes[name] for name in matrices[1:]) if bf16 else 0
    state = 4 * (config.features.dimension + 2 * dense)
    batch, number = config.training.batch_size, 2 if bf16 else 4
    # A gradient beside each hidden layer's activations; the logits turn into theirs in place.
    widths = 2 * sum(config.model.hidden) + config.partition.buckets
    block = min(config.data.block_rows, rows)
    features = _BATCHES * batch * row.features
    return Memory(
        weights=4 * parameters + 2 * products,
        optimizer=state,
        activations=batch * widths * number,
        checkpoint=4 * parameters + state if steps > config.runtime.checkpoint_steps else 0,
        rows=round(_BLOCKS * block * row.bytes + features * _FEATURE_BYTES) + _BESIDE,
    )
