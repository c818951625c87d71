"""What a training step on active sets computes, in plain Torch: the definition.

Slow and short on purpose, as `workers/kernels/reference.py`: all neurons are computed, and those
that are not active are then taken for zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.kernels import reference
from workers.kernels.steps import Examples, Tensors


def train_step(
    parameters: Tensors,
    state: Tensors,
    examples: Examples,
    touches: Sequence[Tensor] | None,
    masks: Sequence[Tensor | None],
    *,
    loss: str,
    relu: bool,
    input_rate: float,
    rate: float,
    step: int = 0,
) -> float:
    """Make one step of the optimiser in place and return the batch's loss.

    Args:
        parameters: as for `TorchSteps`, as the others.
        state: likewise.
        examples: likewise.
        touches: for each layer (width,): in how many steps before each neuron was active; updated.
            None: neurons that are not active move on as without a gradient.
        masks: for each layer (n, width): 1 for active neurons, 0 for others; None: all are active.
        loss: likewise.
        relu: likewise.
        input_rate: likewise.
        rate: likewise.
        step: its number, from 1, where there are no touches.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}

    def fire(layer: int, activations: Tensor) -> Tensor:
        mask = masks[layer]
        return activations if mask is None else activations * mask

    logits = reference.logits(
        leaves,
        torch.from_numpy(examples.offsets),
        torch.from_numpy(examples.ids).long(),
        torch.from_numpy(examples.values),
        relu=relu,
        dtype=torch.float32,
        fire=fire,
    )
    labels = torch.from_numpy(examples.label_offsets), torch.from_numpy(examples.buckets)
    active = torch.ones_like(logits) if masks[-1] is None else masks[-1]
    if loss == "softmax":
        # Others are as if they were not there.
        losses = reference.softmax_losses(logits + active.log(), *labels)
    else:
        losses = reference.bce_losses(logits, *labels, active)
    total = (losses * torch.from_numpy(examples.scale)).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()))
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if name == "input.weight":
            square = state["input.weight.square"]
            reference.adagrad_rows(parameter, gradient, square, input_rate)
        else:
            tensors = parameter, state[f"{name}.first"], state[f"{name}.second"]
            if touches is None:
                reference.adam(tensors[0], gradient, *tensors[1:], rate, step)
                continue
            moved = _moved(name, masks, parameter)
            after = [tensor.clone() for tensor in tensors]
            counts = touches[_layer(name)] + 1
            reference.adam(after[0], gradient, after[1], after[2], rate, counts)
            for tensor, new in zip(tensors, after, strict=True):
                tensor.copy_(torch.where(moved, new, tensor))
    for counts, mask in zip(touches or (), masks, strict=touches is not None):
        counts += 1 if mask is None else mask.sum(0) > 0
    return float(total.detach())


def _layer(name: str) -> int:
    return 0 if name.startswith("input") else int(name.split(".")[1]) + 1


def _moved(name: str, masks: Sequence[Tensor | None], parameter: Tensor) -> Tensor:
    """Return which entries of a parameter some row has active, at both ends."""
    kind, layer = name.rpartition(".")[2], _layer(name)
    above, below = masks[layer], masks[layer - 1] if layer else None
    if kind == "bias":
        return torch.ones(len(parameter)) > 0 if above is None else above.sum(0) > 0
    if above is None and below is None:
        return torch.ones_like(parameter) > 0
    rows = len(above if above is not None else below)  # type: ignore[arg-type]
    above = torch.ones(rows, parameter.shape[0]) if above is None else above
    below = torch.ones(rows, parameter.shape[1]) if below is None else below
    return above.T @ below > 0
