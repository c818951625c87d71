"""The kernels for GPUs beside a dense network in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.batches import made_up
from workers.kernels import reference
from workers.kernels.gpu_steps import GpuSteps
from workers.kernels.steps import Examples, Tensors, first_state, network_shapes

LIMITS = {"fp32": 1e-3, "bf16": 1e-2}
"""Largest relative error of a gradient."""
_INPUT_RATE, _RATE = 0.1, 0.001
_ROWS, _DIMENSION, _FEATURES = 512, 5_000, 30
_WIDTHS = {"fp32": (1300, 200, 5_000), "bf16": (1300, 5_000)}
"""Wider than the blocks that programs work on, and no multiples of them. In bf16 one hidden
layer, as the paper has: of two, rounding turns some units of the second on or off, which is no
error of a kernel but outweighs all that is."""


def network(dimension: int, widths: tuple[int, ...], *, device: str, seed: int = 0) -> Tensors:
    """Return seeded weights."""
    generator = torch.Generator(device).manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, device=device) * shape[-1] ** -0.5
        for name, shape in network_shapes((dimension, *widths)).items()
    }


def checked(loss: str, precision: str, device: str) -> dict[str, Any]:
    """Return the largest relative error of what one step leaves, and what it is of.

    Gradients are told by what the optimiser keeps (a tenth of them in Adam's first moments, their
    rows' mean squares in Adagrad's sums) beside float64; steps of the weights by those moments.
    """
    widths = _WIDTHS[precision]
    examples = made_up(
        _ROWS, dimension=_DIMENSION, features=_FEATURES, buckets=widths[-1], seed=0, most_labels=4
    )
    weights = network(_DIMENSION, widths, device=device)
    before = {name: tensor.double() for name, tensor in weights.items()}
    exact_loss, gradients = exact(before, examples, loss)
    state = first_state(weights)
    steps = GpuSteps(weights, state, loss=loss, relu=True, bf16=precision == "bf16")
    found = steps.train(examples, step=1, input_rate=_INPUT_RATE, rate=_RATE)
    errors = {"loss": abs(found / exact_loss - 1)}
    for name, gradient in gradients.items():
        moved = before[name] - weights[name].double()
        if name == "input.weight":
            square = gradient.square().mean(1)
            wanted = _INPUT_RATE * gradient / (square.sqrt() + 1e-10)[:, None]
            # A square is off by twice as much as what was squared.
            errors["input.weight.square"] = off(state["input.weight.square"], square) / 2
        else:
            first, second = state[f"{name}.first"].double(), state[f"{name}.second"].double()
            wanted = _RATE * 10 * first / ((second / 0.001).sqrt() + 1e-8)
            errors[f"{name}.first"] = off(first, 0.1 * gradient)
            errors[f"{name}.second"] = off(second, 0.001 * gradient.square()) / 2
        errors[name] = off(moved, wanted)
    errors["probabilities"] = probabilities_off(steps, weights, examples, loss)
    worst = max(errors, key=lambda name: errors[name])
    limit = LIMITS[precision]
    return {
        "relative_error": errors[worst],
        "of": worst,
        "limit": limit,
        "right": errors[worst] < limit,
    }


def off(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference over that of what is wanted."""
    return float((found.double() - wanted).norm() / wanted.norm())


def probabilities_off(steps: GpuSteps, weights: Tensors, examples: Examples, loss: str) -> float:
    """Return how far probabilities are from float64's on the weights as they are."""
    scores = forward({name: tensor.double() for name, tensor in weights.items()}, examples)
    wanted = scores.softmax(1) if loss == "softmax" else scores.sigmoid()
    return off(steps.probabilities(examples).to(wanted.device), wanted)


def exact(weights: Tensors, examples: Examples, loss: str) -> tuple[float, Tensors]:
    """Return the loss and its gradients, of float64 weights and without any kernel."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    device = weights["input.weight"].device
    labels = (torch.from_numpy(a).to(device) for a in (examples.label_offsets, examples.buckets))
    losses = reference.LOSSES[loss](forward(leaves, examples), *labels)
    total = (losses * torch.from_numpy(examples.scale).to(device)).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return float(total.detach()), dict(zip(leaves, gradients, strict=True))


def forward(weights: Tensors, examples: Examples) -> Tensor:
    """Return the logits of a dense network."""
    rows = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))
    dense = torch.zeros(len(examples), len(weights["input.weight"]), dtype=torch.float64)
    places = torch.from_numpy(rows), torch.from_numpy(examples.ids).long()
    dense.index_put_(places, torch.from_numpy(examples.values).double(), accumulate=True)
    hidden = dense.to(weights["input.weight"].device) @ weights["input.weight"]
    hidden = hidden + weights["input.bias"]
    for layer in range((len(weights) - 2) // 2):
        hidden = hidden.relu() @ weights[f"layer.{layer}.weight"].T
        hidden = hidden + weights[f"layer.{layer}.bias"]
    return hidden
