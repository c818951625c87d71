"""A forward pass on the CPU: compiled kernels around Torch's products."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.kernels import cpu
from workers.kernels.losses import bce_probabilities, softmax_probabilities
from workers.kernels.steps import Rows, Tensors
from workers.precision import SCALE, widened
from workers.threads import Pool, spans

ROWS = 256
"""Rows of a batch in one task: their logits stay in one core's cache."""


class Scratch:
    """Memory that is kept between calls: fresh pages cost more than the kernels."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor, contiguous, with whatever is in it: that of the last call if it fits."""
        size = math.prod(shape)
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = torch.empty(size, dtype=dtype)
        return self._held[name][:size].view(shape)


class CpuForward:
    """Bucket probabilities, spread over a pool of threads.

    Args:
        parameters: contiguous tensors on the CPU; matrices in any of
            `workers.precision.PRECISIONS`, biases in float32.
        loss: `softmax` or `bce`.
        relu: whether hidden layers are rectified; else they are linear.
        bf16: whether matrix products are taken in bf16.
        pool: where tasks run.
        kept: of hidden layers, by number, how many neurons of a row fire: those of the highest
            activations. Of layers that are not named, all do.
        products: matrices as products take them, if they are there already.
        scratch: memory between calls.
    """

    def __init__(
        self,
        parameters: Tensors,
        *,
        loss: str,
        relu: bool,
        bf16: bool,
        pool: Pool,
        kept: Mapping[int, int] | None = None,
        products: list[Tensor] | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self._kept = kept or {}
        self._floor = 0.0 if relu else -math.inf
        self._pool = pool
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._layers = sum(name.endswith(".bias") for name in parameters) - 1
        self._parameters = parameters
        self._matrices = [f"layer.{layer}.weight" for layer in range(self._layers)]
        self._products = products or [self._product(parameters, name) for name in self._matrices]
        self._table = bits(parameters["input.weight"])
        scale = parameters.get("input.weight" + SCALE)
        self._scale = None if scale is None else scale.numpy()
        self._biases = [parameters["input.bias"].numpy()]
        self._biases += [parameters[f"layer.{i}.bias"].numpy() for i in range(self._layers)]
        self._squash = softmax_probabilities if loss == "softmax" else bce_probabilities
        self._scratch = scratch or Scratch()

    def refresh(self) -> None:
        """See `Steps.refresh`."""
        for name, product in zip(self._matrices, self._products, strict=True):
            product.copy_(self._parameters[name])

    def _product(self, parameters: Tensors, name: str) -> Tensor:
        """Return a matrix as products take it: the tensor itself where it is of that type."""
        weight = parameters[name]
        if weight.dtype == torch.int8:
            weight = widened({name: weight, name + SCALE: parameters[name + SCALE]})[name]
        return weight.to(self._dtype)

    def probabilities(self, rows: Rows) -> Tensor:
        """See `Steps.probabilities`."""
        activations = self._activations(rows)
        if self._scale is not None:
            # Each row of the table is used times a value: its scale may as well be in that.
            rows = replace(rows, values=rows.values * self._scale[rows.ids])
        bias = self._biases[-1]
        out = np.empty((len(rows), len(bias)), np.float32)

        def work(start: int, stop: int) -> None:
            self._forward(start, stop, rows, activations)
            self._squash(start, stop, bits(activations[-1]), bias, out)

        self._pool.run(work, spans(len(rows), ROWS))
        return torch.from_numpy(out)

    def _forward(self, start: int, stop: int, rows: Rows, activations: list[Tensor]) -> None:
        self._hidden(start, stop, rows, activations)
        self._multiply(start, stop, self._layers - 1, activations)

    def _hidden(self, start: int, stop: int, rows: Rows, activations: list[Tensor]) -> None:
        """Write the activations of all layers but the last."""
        table, bias, first = self._table, self._biases[0], bits(activations[0])
        cpu.embedding_bag(
            start, stop, rows.offsets, rows.ids, rows.values, table, bias, self._floor, first
        )
        self._keep(start, stop, 0, activations[0])
        for layer in range(self._layers - 1):
            self._multiply(start, stop, layer, activations)
            out = activations[layer + 1]
            cpu.activate(start, stop, bits(out), self._biases[layer + 1], self._floor)
            self._keep(start, stop, layer + 1, out)

    def _multiply(self, start: int, stop: int, layer: int, activations: list[Tensor]) -> None:
        inputs, out = activations[layer][start:stop], activations[layer + 1][start:stop]
        torch.mm(inputs, self._products[layer].T, out=out)

    def _keep(self, start: int, stop: int, layer: int, activations: Tensor) -> None:
        if layer in self._kept:
            cpu.keep_highest(start, stop, bits(activations), self._kept[layer])

    def _activations(self, rows: Rows) -> list[Tensor]:
        return [self._buffer("activation", layer, rows) for layer in range(self._layers + 1)]

    def _buffer(self, kind: str, layer: int, rows: Rows) -> Tensor:
        shape = len(rows), len(self._biases[layer])
        return self._scratch.get(f"{kind} {layer}", shape, self._dtype)


def bits(tensor: Tensor) -> NDArray[np.generic]:
    """Return the tensor's memory as an array: float32 and int8 as they are, bf16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()
