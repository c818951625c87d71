"""A training step and a forward pass on the CPU: compiled kernels around Torch's products."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.kernels import cpu
from workers.kernels.adam import unbiased
from workers.kernels.cpu_forward import ROWS, CpuForward, Scratch, bits
from workers.kernels.losses import bce_gradient, softmax_gradient
from workers.kernels.numbers import Floats, Ids
from workers.kernels.steps import Examples, Tensors
from workers.threads import Pool, Task, spans

BUCKETS = 512
"""Rows of a weight matrix in one task."""
FEATURES = 512
"""Features of the input layer in one task."""


Unbiased = tuple[Floats, Floats]


class CpuSteps(CpuForward):
    """The compiled kernels, spread over a pool of threads.

    Args:
        parameters: contiguous float32 tensors on the CPU, updated in place.
        state: the optimiser's, likewise.
        loss: `softmax` or `bce`.
        relu: whether hidden layers are rectified; else they are linear.
        bf16: whether matrix products are taken in bf16.
        pool: where tasks run.
        products: as for `CpuForward`.
        scratch: likewise.
    """

    def __init__(
        self,
        parameters: Tensors,
        state: Tensors,
        *,
        loss: str,
        relu: bool,
        bf16: bool,
        pool: Pool,
        products: list[Tensor] | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        super().__init__(
            parameters,
            loss=loss,
            relu=relu,
            bf16=bf16,
            pool=pool,
            products=products,
            scratch=scratch,
        )
        self._relu = relu
        self._arrays = {name: tensor.numpy() for name, tensor in (parameters | state).items()}
        self._gradient = softmax_gradient if loss == "softmax" else bce_gradient

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        losses = np.empty(len(examples), np.float32)
        activations = self._activations(examples)
        deltas = [self._buffer("delta", layer, examples) for layer in range(self._layers)]
        deltas.append(activations[-1])
        self._pool.run(
            lambda a, b: self._there_and_back(a, b, examples, activations, deltas, losses),
            spans(len(examples), ROWS),
        )
        before = (self._steps_before(layer, step) for layer in range(self._layers + 1))
        steps = [unbiased(rate, made) for made in before]
        self._pool.run_tasks(
            [
                # The long tasks first, so that none of them is what all wait for.
                *self._layer_tasks(activations, deltas, steps[1:]),
                *self._input_tasks(examples, deltas[0], input_rate, steps[0]),
            ]
        )
        return float(np.dot(losses.astype(np.float64), examples.scale.astype(np.float64)))

    def _steps_before(self, layer: int, step: int) -> Ids:
        """Return how many steps each neuron of a layer made before this one."""
        return np.full(len(self._biases[layer]), step - 1, np.int32)

    def _there_and_back(
        self,
        start: int,
        stop: int,
        examples: Examples,
        activations: list[Tensor],
        deltas: list[Tensor],
        losses: NDArray[np.float32],
    ) -> None:
        # deltas[i] is the gradient at activations[i]; the last replaces the logits.
        self._forward(start, stop, examples, activations)
        self._gradient(
            start,
            stop,
            bits(deltas[-1]),
            self._biases[-1],
            examples.label_offsets,
            examples.buckets,
            examples.scale,
            losses,
        )
        for layer in reversed(range(self._layers)):
            torch.mm(
                deltas[layer + 1][start:stop], self._products[layer], out=deltas[layer][start:stop]
            )
            if self._relu:
                cpu.relu_gradient(start, stop, bits(deltas[layer]), bits(activations[layer]))

    def _input_tasks(
        self, examples: Examples, delta: Tensor, input_rate: float, steps: Unbiased
    ) -> list[Task]:
        table = self._arrays["input.weight"], self._arrays["input.weight.square"]
        of_features = (
            examples.features,
            examples.feature_starts,
            examples.feature_rows,
            examples.feature_values,
        )
        width = len(self._arrays["input.bias"])
        bias = self._bias_task("input.bias", delta, (0, width), steps)
        return [bias] + [
            (cpu.adagrad_rows, (*span, *of_features, bits(delta), *table, input_rate))
            for span in spans(len(examples.features), FEATURES)
        ]

    def _layer_tasks(
        self, activations: list[Tensor], deltas: list[Tensor], steps: list[Unbiased]
    ) -> list[Task]:
        tasks: list[Task] = []
        for layer in range(self._layers):
            delta, inputs = deltas[layer + 1], activations[layer]
            for span in spans(delta.shape[1], BUCKETS):
                tasks.append((self._update, (*span, layer, inputs, delta, steps[layer])))
                tasks.append(self._bias_task(f"layer.{layer}.bias", delta, span, steps[layer]))
        return tasks

    def _update(
        self,
        start: int,
        stop: int,
        layer: int,
        inputs: Tensor,
        delta: Tensor,
        steps: Unbiased,
    ) -> None:
        name = f"layer.{layer}.weight"
        gradient = torch.mm(delta[:, start:stop].T, inputs)
        cpu.adam_matrix(
            0,
            stop - start,
            bits(gradient),
            self._arrays[name][start:stop],
            bits(self._products[layer])[start:stop],
            self._arrays[f"{name}.first"][start:stop],
            self._arrays[f"{name}.second"][start:stop],
            *(array[start:stop] for array in steps),
        )

    def _bias_task(self, name: str, delta: Tensor, span: tuple[int, int], steps: Unbiased) -> Task:
        moments = self._arrays[f"{name}.first"], self._arrays[f"{name}.second"]
        return cpu.adam_bias, (*span, bits(delta), self._arrays[name], *moments, *steps)
