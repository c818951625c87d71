"""Weights in fewer bytes, to predict with: bf16, or int8 with a scale for each row.

Matrices alone are narrowed; biases stay float32. A row r of an int8 matrix
stands for `scale[r] * row`, with the scale that gives its largest entry 127
(symmetric, Jacob et al., CVPR 2018, section 2.1, with a zero point of 0). The
scales of `input.weight` are a tensor of their own, `input.weight.scale`.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

PRECISIONS = ("fp32", "bf16", "int8")
SCALE = ".scale"
"""What the name of a matrix and the name of its scales differ by."""
_LARGEST = 127


def narrowed(tensors: Tensors, precision: str) -> Tensors:
    """Return float32 weights in the precision of that name."""
    if precision == "fp32":
        return tensors
    found: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            found[name] = tensor
        elif precision == "bf16":
            found[name] = tensor.to(torch.bfloat16)
        else:
            scale = tensor.abs().amax(1) / _LARGEST
            # A row of zeros has no scale of its own; any will do.
            divisor = torch.where(scale > 0, scale, 1.0)
            found[name] = (tensor / divisor[:, None]).round().to(torch.int8)
            found[name + SCALE] = scale
    return found


def widened(tensors: Tensors) -> Tensors:
    """Return the float32 weights that narrowed ones stand for."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        found[name] = tensor.float() if scale is None else tensor.float() * scale[:, None]
    return found


def precision_of(tensors: Tensors) -> str | None:
    """Return the precision that weights are in; None: something between."""
    matrices = {name: tensor for name, tensor in tensors.items() if tensor.ndim >= 2}
    vectors = {name for name in tensors if name not in matrices}
    if any(tensors[name].dtype != torch.float32 for name in vectors):
        return None
    scales = {name + SCALE for name in matrices}
    kinds = {tensor.dtype for tensor in matrices.values()}
    if kinds == {torch.int8} and scales <= vectors:
        return "int8"
    if scales & vectors:
        return None
    if kinds == {torch.bfloat16}:
        return "bf16"
    return "fp32" if kinds == {torch.float32} else None
