"""What a training step takes and does, whatever computes it.

All that compute hold the same parameters and optimiser state by the same names, so that a
checkpoint of one opens in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.batch import Batch

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def network_shapes(widths: Sequence[int]) -> Shapes:
    """Return the names and shapes of the parameters of a network.

    Args:
        widths: d, those of the hidden layers, B.
    """
    shapes: Shapes = {"input.weight": (widths[0], widths[1]), "input.bias": (widths[1],)}
    for layer, (inputs, outputs) in enumerate(pairwise(widths[1:])):
        shapes[f"layer.{layer}.weight"] = outputs, inputs
        shapes[f"layer.{layer}.bias"] = (outputs,)
    return shapes


def first_state(parameters: Tensors) -> Tensors:
    """Return the optimiser's state before the first step, on the parameters' device."""
    table = parameters["input.weight"]
    state = {"input.weight.square": torch.zeros(len(table), device=table.device)}
    for name, parameter in parameters.items():
        if name != "input.weight":
            state[f"{name}.first"] = torch.zeros_like(parameter)
            state[f"{name}.second"] = torch.zeros_like(parameter)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The features of n rows, as the kernels take them; see `workers.batch.Batch`."""

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, batch: Batch) -> Rows:
        """Return the features of a batch."""
        return cls(
            offsets=batch.feature_offsets, ids=batch.feature_ids, values=batch.feature_values
        )


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

    def probabilities(self, rows: Rows) -> Tensor:
        """Return the (n, B) float32 bucket probabilities of n rows, on the parameters' device."""

    def refresh(self) -> None:
        """Take over parameters that were changed from outside."""
