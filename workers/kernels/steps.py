"""What a training step takes and does, whatever computes it.

All that compute hold the same parameters and optimiser state by the same names, so that a
checkpoint of one opens in another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The features of n rows, as the kernels take them; see `workers.batch.Batch`."""

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples(Rows):
    """Rows with labels, and the rows of every feature."""

    label_offsets: NDArray[np.int64]
    """(n + 1,) int64."""
    buckets: NDArray[np.int32]
    """(labels,) int32, sorted within a row."""
    scale: NDArray[np.float32]
    """(n,) float32: each row's weight in the batch's loss."""
    features: NDArray[np.int32]
    """(u,) int32: the batch's distinct features."""
    feature_starts: NDArray[np.int64]
    """(u + 1,) int64: where each one's rows begin."""
    feature_rows: NDArray[np.int32]
    """(features,) int32."""
    feature_values: NDArray[np.float32]
    """(features,) float32, in the order of `feature_rows`."""


class Steps(Protocol):
    """What computes: owns nothing but scratch memory."""

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """Make step number `step` (from 1), with these learning rates; return the loss."""

    def probabilities(self, rows: Rows) -> NDArray[np.float32]:
        """Return the (n, B) float32 bucket probabilities of n rows."""

    def refresh(self) -> None:
        """Take over parameters that were changed from outside."""
