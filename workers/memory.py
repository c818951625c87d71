"""How much memory a world takes at its peak, told before it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyarrow as pa

from workers.classifier import parameter_shapes
from workers.config import WorldConfig
from workers.errors import DataError
from workers.features import Featurizer
from workers.lsh.network import first_codes, has_own_sets, is_hashed, step_bytes
from workers.shards import ShardSet, Slice
from workers.world import READY_BATCHES

_BLOCKS = 8
"""Blocks' worth of rows in memory: the block that is trained on, the one that is ready, the one
that is read and then shuffled into a copy, the rests of the row groups that blocks cut, and what
Arrow keeps."""
_BATCHES = READY_BATCHES + 2
"""Batches in memory: those that are ready, the one that is made and the one that is trained on."""
_FEATURE_BYTES = 18
"""Of a feature in a batch, in the order of rows and in that of features."""
_BESIDE = 60_000_000
"""What threads, allocators and the library of products keep for themselves."""


_SAMPLED = 1000
"""Rows that are looked at to tell how large one is."""
_WIDENED = 4
"""Bytes by which offsets of texts and lists grow where they are of 32 bits in the file."""


@dataclass(frozen=True, kw_only=True)
class RowSize:
    """The average of a row of the columns that a world reads."""

    bytes: float
    """In memory."""
    features: float
    """Once it is hashed."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak bytes of one world in training, by what they are for."""

    weights: int
    """float32, and their copies for products in bf16."""
    optimizer: int
    """One float32 of Adagrad a row of the input layer, two of Adam for all other parameters."""
    activations: int
    """Of a batch: logits, hidden layers and their gradients; on a GPU that of a layer too. Of a
    world that hashes: its tables and active neurons."""
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
    on_gpu: bool = False,
    rows: int,
    row: RowSize,
    steps: int,
) -> Memory:
    """Return the peak bytes of a world.

    K is in none of it: a partition is computed, not stored.

    Args:
        config: of the world.
        bf16: whether products are taken in bf16 (`workers.classifier.choose_bf16`).
        on_gpu: whether it trains on a GPU, which takes a layer's gradient whole and not in slices.
        rows: of the training data.
        row: what one takes on average (`row_size`).
        steps: of all epochs.
    """
    shapes = parameter_shapes(config)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    parameters, table = sum(sizes.values()), sizes["input.weight"]
    dense = parameters - table
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    bf16 = bf16 and not has_own_sets(config)
    products = sum(sizes[name] for name in matrices[1:]) if bf16 else 0
    state = 4 * (config.features.dimension + 2 * dense)
    state += sum(tensor.nbytes for tensor in first_codes(config, device="meta").values())
    batch, number = config.training.batch_size, 2 if bf16 else 4
    # A gradient beside each hidden layer's activations; the logits turn into theirs in place.
    widths = 2 * sum(config.model.hidden) + config.partition.buckets
    gradient = max(sizes[name] for name in matrices[1:]) * number if on_gpu else 0
    block = min(config.data.block_rows, rows)
    features = _BATCHES * batch * row.features
    beside = (
        step_bytes(config, bf16=bf16) if is_hashed(config) else batch * widths * number + gradient
    )
    return Memory(
        weights=4 * parameters + 2 * products,
        optimizer=state,
        activations=beside,
        checkpoint=4 * parameters + state if steps > config.runtime.checkpoint_steps else 0,
        rows=round(_BLOCKS * block * row.bytes + features * _FEATURE_BYTES) + _BESIDE,
    )


def row_size(shards: ShardSet, config: WorldConfig) -> RowSize:
    """Return what a row takes, from the first rows that can be read.

    Raises:
        DataError: if no row group can be read, or its rows cannot be trained on.
    """
    table = _first_rows(shards, config.data.columns())
    batch = Featurizer(config.data, config.features, config.seed, 0).batch(table, labels=False)
    short = sum(pa.types.is_string(kind) or pa.types.is_list(kind) for kind in table.schema.types)
    return RowSize(
        bytes=table.nbytes / len(table) + _WIDENED * short,
        features=len(batch.feature_ids) / len(table),
    )


def _first_rows(shards: ShardSet, columns: list[str]) -> pa.Table:
    trouble: DataError | None = None
    for group in shards.groups:
        piece = Slice(group.shard, group.group, 0, min(_SAMPLED, group.rows))
        try:
            return pa.Table.from_batches([next(iter(shards.read(piece, columns)))])
        except DataError as error:
            trouble = trouble or error
    assert trouble is not None, "a data set has rows"
    raise trouble
