"""A training step and a forward pass on a GPU: Triton's kernels around Torch's products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.kernels import triton_kernels as kernels
from workers.kernels.steps import Examples, Rows, Tensors

BUCKETS = 4096
"""Logits of a row that a program works on at a time."""


class GpuSteps:
    """See `workers.kernels.steps.Steps`.

    Memory of the device moves once for each use: the logits turn into gradients in place, the
    input layer's gradient is never written, and the dense layers' moments, weights and copies
    for products are read and written by one kernel.

    Args:
        parameters: contiguous float32 tensors on the device, updated in place.
        state: the optimiser's, likewise.
        loss: `softmax` or `bce`.
        relu: whether hidden layers are rectified; else they are linear.
        bf16: whether matrix products are taken in bf16.
    """

    def __init__(
        self, parameters: Tensors, state: Tensors, *, loss: str, relu: bool, bf16: bool
    ) -> None:
        self._parameters = parameters
        self._state = state
        self._loss = loss
        self._relu = relu
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._device = parameters["input.weight"].device
        self._layers = (len(parameters) - 2) // 2
        self._products = [
            # Without bf16 the products take the weights themselves.
            parameters[f"layer.{layer}.weight"].to(self._dtype)
            for layer in range(self._layers)
        ]

    def refresh(self) -> None:
        """See `Steps.refresh`."""
        for layer, product in enumerate(self._products):
            product.copy_(self._parameters[f"layer.{layer}.weight"])

    @torch.no_grad()
    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        with _on(self._device):
            return self._train(examples, step, input_rate, rate)

    @torch.no_grad()
    def probabilities(self, rows: Rows) -> Tensor:
        """See `Steps.probabilities`."""
        with _on(self._device):
            arrays = self._upload(rows.offsets, rows.ids, rows.values)
            logits = self._forward(len(rows), *arrays)[-1].float()
        logits += self._parameters[f"layer.{self._layers - 1}.bias"]
        return logits.softmax(1) if self._loss == "softmax" else logits.sigmoid()

    def _train(self, examples: Examples, step: int, input_rate: float, rate: float) -> float:
        arrays = self._upload(
            examples.offsets,
            examples.ids,
            examples.values,
            examples.label_offsets,
            examples.buckets,
            examples.scale,
            examples.features,
            examples.feature_starts,
            examples.feature_rows,
            examples.feature_values,
        )
        offsets, ids, values, label_offsets, buckets, scale, *by_feature = arrays
        activations = self._forward(len(examples), offsets, ids, values)
        losses = torch.empty(len(examples), device=self._device)
        delta = activations[-1]
        kernel = kernels.softmax_gradient if self._loss == "softmax" else kernels.bce_gradient
        bias = self._parameters[f"layer.{self._layers - 1}.bias"]
        kernel[(len(examples),)](
            delta, bias, label_offsets, buckets, scale, losses, delta.shape[1], block=BUCKETS
        )
        unbiased = rate / (1 - 0.9**step), 1 / (1 - 0.999**step) ** 0.5
        for layer in reversed(range(self._layers)):
            inputs = activations[layer]
            # Before the layer's weights move.
            below = torch.mm(delta, self._products[layer])
            self._adam(f"layer.{layer}.weight", torch.mm(delta.T, inputs), unbiased, layer)
            self._adam(f"layer.{layer}.bias", delta.sum(0, dtype=torch.float32), unbiased)
            if self._relu:
                grid = (kernels.blocks(below.numel()),)
                kernels.relu_gradient[grid](below, inputs, below.numel(), block=kernels.BLOCK)
            delta = below
        self._adam("input.bias", delta.sum(0, dtype=torch.float32), unbiased)
        self._adagrad(by_feature, delta, input_rate)
        return float(torch.dot(losses, scale))

    def _upload(self, *arrays: NDArray[np.generic]) -> list[Tensor]:
        """Copy arrays to the device, in one piece of pinned memory, without waiting for it."""
        starts, size = [], 0
        for array in arrays:
            starts.append(size)
            size += -(-array.nbytes // 16) * 16
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        host = pinned.numpy()
        for start, array in zip(starts, arrays, strict=True):
            host[start : start + array.nbytes] = np.ascontiguousarray(array).view(np.uint8)
        there = pinned.to(self._device, non_blocking=True)
        return [
            there[start : start + array.nbytes].view(torch.from_numpy(array[:0]).dtype)
            for start, array in zip(starts, arrays, strict=True)
        ]

    def _forward(self, count: int, offsets: Tensor, ids: Tensor, values: Tensor) -> list[Tensor]:
        table, bias = self._parameters["input.weight"], self._parameters["input.bias"]
        width = table.shape[1]
        out = torch.empty(count, width, dtype=self._dtype, device=self._device)
        block = min(kernels.BLOCK, kernels.whole_row(width))
        kernels.embedding_bag[(count, kernels.blocks(width, block))](
            offsets, ids, values, table, bias, out, width, relu=self._relu, block=block
        )
        activations = [out]
        for layer, weight in enumerate(self._products):
            out = torch.mm(activations[-1], weight.T)
            if layer < self._layers - 1:
                width = out.shape[1]
                kernels.activate[(count, kernels.blocks(width))](
                    out,
                    self._parameters[f"layer.{layer}.bias"],
                    width,
                    relu=self._relu,
                    block=kernels.BLOCK,
                )
            activations.append(out)
        return activations

    def _adam(
        self,
        name: str,
        gradient: Tensor,
        unbiased: tuple[float, float],
        layer: int | None = None,
    ) -> None:
        weight = self._parameters[name]
        copy = weight if layer is None else self._products[layer]
        count = weight.numel()
        kernels.adam[(kernels.blocks(count),)](
            gradient,
            weight,
            copy,
            self._state[f"{name}.first"],
            self._state[f"{name}.second"],
            *unbiased,
            count,
            block=kernels.BLOCK,
        )

    def _adagrad(self, by_feature: list[Tensor], delta: Tensor, rate: float) -> None:
        features, starts, rows, values = by_feature
        if not len(features):
            return
        table = self._parameters["input.weight"]
        width = table.shape[1]
        kernels.adagrad_rows[(len(features),)](
            features,
            starts,
            rows,
            values,
            delta,
            table,
            self._state["input.weight.square"],
            rate,
            width,
            block=kernels.whole_row(width),
        )


def works(device: str) -> bool:
    """Return whether a kernel can be built and run there: Triton needs a C compiler."""
    probe = torch.zeros(1, 16, device=device)
    try:
        with _on(probe.device):
            kernels.activate[(1, 1)](probe, probe[0] + 1.0, 16, relu=True, block=16)
        return bool(probe.sum() == 16)
    except Exception:
        # Whatever it was, plain Torch trains without it.
        return False


def _on(device: torch.device) -> AbstractContextManager[object]:
    # Triton launches on the current device, whatever its arguments are on.
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
