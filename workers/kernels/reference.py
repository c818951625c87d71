"""What a training step computes, in plain Torch: the definition, on any device.

Slow and short on purpose. The compiled kernels are held equal to it by tests,
and devices without kernels of their own train with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

Parameters = Mapping[str, Tensor]


def logits(
    parameters: Parameters,
    offsets: Tensor,
    ids: Tensor,
    values: Tensor,
    *,
    relu: bool,
    dtype: torch.dtype,
    fire: Callable[[int, Tensor], Tensor] = lambda layer, activations: activations,
) -> Tensor:
    """Return the (n, B) logits of n rows of features, products in `dtype`.

    Args:
        parameters: `input.weight` (d, h), `input.bias` (h,), then `layer.0.weight`
            (out, in), `layer.0.bias` (out,) and so on; the last has B outputs.
        offsets: (n + 1,) int64.
        ids: (features,) int64; row i has those between its offsets.
        values: (features,) float32.
        relu: whether hidden layers are rectified; else they are linear.
        dtype: float32 or bfloat16.
        fire: is given the number of each hidden layer and its activations, and returns those
            that count.
    """
    activate = functional.relu if relu else torch.nn.Identity()
    hidden = functional.embedding_bag(
        ids,
        parameters["input.weight"],
        offsets,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=True,
        sparse=True,
    )
    hidden = fire(0, activate(hidden + parameters["input.bias"]))
    layers = (len(parameters) - 2) // 2
    for layer in range(layers):
        weight, bias = parameters[f"layer.{layer}.weight"], parameters[f"layer.{layer}.bias"]
        hidden = (hidden.to(dtype) @ weight.to(dtype).T).float() + bias
        if layer < layers - 1:
            hidden = fire(layer + 1, activate(hidden))
    return hidden


def highest(activations: Tensor, count: int) -> Tensor:
    """Return the activations (n, width) with all but a row's `count` highest zeroed."""
    # A stable order: of equal ones the first stay.
    order = activations.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(activations).scatter(1, order, activations.gather(1, order))


def softmax_losses(scores: Tensor, offsets: Tensor, buckets: Tensor) -> Tensor:
    """Return each row's mean over its labels of -log softmax(scores)[bucket], (n,)."""
    counts = offsets.diff()
    rows = torch.repeat_interleave(counts)
    picked = -functional.log_softmax(scores, dim=1)[rows, buckets.long()]
    total = torch.zeros(len(counts), dtype=scores.dtype, device=scores.device)
    return total.index_add(0, rows, picked) / counts.clamp(min=1)


def bce_losses(
    scores: Tensor, offsets: Tensor, buckets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return each row's sum over buckets of the binary cross-entropy, labels OR-ed, (n,).

    Each times its weight (n, B), if there are any.
    """
    rows = torch.repeat_interleave(offsets.diff())
    target = torch.zeros_like(scores)
    target[rows, buckets.long()] = 1.0
    return functional.binary_cross_entropy_with_logits(
        scores, target, weights, reduction="none"
    ).sum(1)


LOSSES = {"softmax": softmax_losses, "bce": bce_losses}


@torch.no_grad()
def adagrad_rows(table: Tensor, gradient: Tensor, state: Tensor, rate: float) -> None:
    """Row-wise Adagrad in place: one accumulator a row (Duchi et al. 2011).

    Args:
        table: (d, h).
        gradient: (d, h), sparse.
        state: (d,), the sums of the rows' mean squared gradients.
        rate: the learning rate.
    """
    gradient = gradient.coalesce()
    rows, values = gradient.indices()[0], gradient.values()
    state[rows] += values.square().mean(1)
    table[rows] -= rate / (state[rows].sqrt() + 1e-10).unsqueeze(1) * values


@torch.no_grad()
def adam(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    rate: float,
    step: int | Tensor,
) -> None:
    """Adam in place with betas (0.9, 0.999) and epsilon 1e-8 (Kingma and Ba 2015).

    Args:
        weight: of any shape.
        gradient: likewise.
        first: its moments.
        second: likewise.
        rate: the learning rate.
        step: how many it gathered, this one included; or how many each row did.
    """
    if isinstance(step, Tensor):
        step = step.double().reshape(-1, *[1] * (weight.ndim - 1))
    first.lerp_(gradient, 0.1)
    second.lerp_(gradient.square(), 0.001)
    unbiased = (second / (1 - 0.999**step)).sqrt() + 1e-8
    weight -= rate / (1 - 0.9**step) * first / unbiased
