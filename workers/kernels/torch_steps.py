"""A training step and a forward pass in plain Torch, on any device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.kernels import reference
from workers.kernels.steps import Examples, Rows, Tensors


class TorchSteps:
    """The plain reference, on any device.

    Args: as for `CpuSteps`; the tensors are on the device that computes.
    """

    def __init__(
        self,
        parameters: Tensors,
        state: Tensors,
        *,
        loss: str,
        relu: bool,
        bf16: bool,
        kept: Mapping[int, int] | None = None,
    ) -> None:
        self._kept = kept or {}
        self._relu = relu
        self._parameters = parameters
        self._state = state
        self._loss = loss
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._device = parameters["input.weight"].device

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        leaves = {name: p.detach().requires_grad_() for name, p in self._parameters.items()}
        scores = self._logits(leaves, examples)
        losses = reference.LOSSES[self._loss](
            scores, self._tensor(examples.label_offsets), self._tensor(examples.buckets)
        )
        loss = (losses * self._tensor(examples.scale)).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for name, gradient in zip(leaves, gradients, strict=True):
            parameter = self._parameters[name]
            if name == "input.weight":
                square = self._state["input.weight.square"]
                reference.adagrad_rows(parameter, gradient, square, input_rate)
            else:
                moments = self._state[f"{name}.first"], self._state[f"{name}.second"]
                reference.adam(parameter, gradient, *moments, rate, step)
        return float(loss.detach())

    def refresh(self) -> None:
        """See `Steps.refresh`; nothing is kept here."""

    @torch.no_grad()
    def probabilities(self, rows: Rows) -> Tensor:
        """See `Steps.probabilities`."""
        scores = self._logits(self._parameters, rows)
        return scores.softmax(1) if self._loss == "softmax" else scores.sigmoid()

    def _logits(self, parameters: Tensors, rows: Rows) -> Tensor:
        offsets, ids = self._tensor(rows.offsets), self._tensor(rows.ids).long()
        values = self._tensor(rows.values)
        return reference.logits(
            parameters, offsets, ids, values, relu=self._relu, dtype=self._dtype, fire=self._fire
        )

    def _fire(self, layer: int, activations: Tensor) -> Tensor:
        count = self._kept.get(layer)
        return activations if count is None else reference.highest(activations, count)

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
