"""Kernels for GPUs, in Triton; `workers/kernels/reference.py` is what they compute.

All arithmetic is in float32, whatever the matrices hold, and what is not a number stays so. With
TRITON_INTERPRET=1 they run on the CPU, slowly: that is how the tests hold them equal to the
reference where there is no GPU.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCK = 1024
"""Numbers that a program works on at a time."""


@triton.jit
def embedding_bag(
    offsets, ids, values, table, bias, out, width, relu: tl.constexpr, block: tl.constexpr
):
    """Write out[i] = bias + the sum of values * table[ids] over row i's features, rectified.

    Grid: (rows, blocks of the width).
    """
    row = tl.program_id(0)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    total = tl.load(bias + columns, mask=inside, other=0.0)
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    for position in range(first, last):
        source = tl.load(ids + position).to(tl.int64) * width
        weight = tl.load(table + source + columns, mask=inside, other=0.0)
        total += tl.load(values + position) * weight
    if relu:
        total = tl.where(total < 0.0, 0.0, total)
    target = out + row.to(tl.int64) * width + columns
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def activate(products, bias, width, relu: tl.constexpr, block: tl.constexpr):
    """Turn products into activations in place: x + bias, rectified. Grid: (rows, blocks)."""
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    place = products + tl.program_id(0).to(tl.int64) * width + columns
    total = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + columns, mask=inside, other=0.0)
    if relu:
        total = tl.where(total < 0.0, 0.0, total)
    tl.store(place, total.to(products.dtype.element_ty), mask=inside)


@triton.jit
def relu_gradient(delta, activations, count, block: tl.constexpr):
    """Zero delta in place where the activation is zero. Grid: (blocks,)."""
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = places < count
    active = tl.load(activations + places, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(delta + places, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(active > 0.0, value, 0.0)
    tl.store(delta + places, value.to(delta.dtype.element_ty), mask=inside)


@triton.jit
def softmax_gradient(logits, bias, offsets, buckets, scale, losses, width, block: tl.constexpr):
    """Turn logits into gradients in place, and write each row's loss. Grid: (rows,).

    The loss of a row with n labels is the mean over them of -log softmax(logits + bias)[bucket].
    """
    row = tl.program_id(0)
    line = logits + row.to(tl.int64) * width
    # Before the reductions, at which the program's threads meet: none of them may write
    # gradients while another still reads logits.
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    share = 1.0 / tl.maximum(last - first, 1).to(tl.float32)
    at_labels = 0.0
    for position in range(first, last):
        bucket = tl.load(buckets + position)
        at_labels += share * (tl.load(line + bucket).to(tl.float32) + tl.load(bias + bucket))
    top = -float("inf")
    total = 0.0
    for begin in range(0, width, block):
        columns = begin + tl.arange(0, block)
        inside = columns < width
        z = tl.load(line + columns, mask=inside, other=0.0).to(tl.float32)
        z += tl.load(bias + columns, mask=inside, other=0.0)
        z = tl.where(inside, z, -float("inf"))
        higher = tl.maximum(top, tl.max(z, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(z - higher), 0)
        top = higher
    tl.store(losses + row, tl.log(total) + top - at_labels)
    factor = tl.load(scale + row)
    for begin in range(0, width, block):
        columns = begin + tl.arange(0, block)
        inside = columns < width
        z = tl.load(line + columns, mask=inside, other=0.0).to(tl.float32)
        z += tl.load(bias + columns, mask=inside, other=0.0)
        gradient = tl.exp(z - top) / total
        for position in range(first, last):
            gradient -= tl.where(columns == tl.load(buckets + position), share, 0.0)
        gradient *= factor
        tl.store(line + columns, gradient.to(logits.dtype.element_ty), mask=inside)


@triton.jit
def bce_gradient(logits, bias, offsets, buckets, scale, losses, width, block: tl.constexpr):
    """Turn logits into gradients in place, and write each row's loss. Grid: (rows,).

    The loss of a row is the sum over all B buckets of the binary cross-entropy of
    sigmoid(logits + bias); a bucket's target is 1 if any label fell into it.
    """
    row = tl.program_id(0)
    line = logits + row.to(tl.int64) * width
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    factor = tl.load(scale + row)
    loss = 0.0
    for begin in range(0, width, block):
        columns = begin + tl.arange(0, block)
        inside = columns < width
        x = tl.load(line + columns, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(bias + columns, mask=inside, other=0.0)
        target = tl.zeros([block], tl.float32)
        for position in range(first, last):
            target = tl.where(columns == tl.load(buckets + position), 1.0, target)
        small = tl.exp(-tl.abs(x))
        each = tl.maximum(x, 0.0) + tl.log(1.0 + small) - target * x
        loss += tl.sum(tl.where(inside, each, 0.0), 0)
        gradient = (tl.where(x >= 0.0, 1.0, small) / (1.0 + small) - target) * factor
        tl.store(line + columns, gradient.to(logits.dtype.element_ty), mask=inside)
    tl.store(losses + row, loss)


@triton.jit
def adam(gradient, weight, copy, first, second, rate, correction, count, block: tl.constexpr):
    """Update numbers of a weight, and of its copy for products. Grid: (blocks,).

    Adam with betas (0.9, 0.999) and epsilon 1e-8 (Kingma and Ba 2015, section 2): `rate` is the
    learning rate over 1 - 0.9^t, `correction` 1 / sqrt(1 - 0.999^t).
    """
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = places < count
    g = tl.load(gradient + places, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(first + places, mask=inside, other=0.0)
    v = tl.load(second + places, mask=inside, other=0.0)
    m += 0.1 * (g - m)
    v += 0.001 * (g * g - v)
    w = tl.load(weight + places, mask=inside, other=0.0)
    w -= rate * m / (tl.sqrt(v) * correction + 1e-8)
    tl.store(first + places, m, mask=inside)
    tl.store(second + places, v, mask=inside)
    tl.store(weight + places, w, mask=inside)
    tl.store(copy + places, w.to(copy.dtype.element_ty), mask=inside)


@triton.jit
def adagrad_rows(
    features, starts, rows, values, delta, table, state, rate, width, block: tl.constexpr
):
    """Update the input layer's rows table[features] with row-wise Adagrad. Grid: (features,).

    The gradient of feature f's row is the sum of values * delta[rows] over the batch's rows that
    have it; state[f] gathers the mean square of its entries (Duchi et al. 2011, with one
    accumulator a row). A program holds a whole row: `block` is at least the width.
    """
    place = tl.program_id(0)
    columns = tl.arange(0, block)
    inside = columns < width
    gradient = tl.zeros([block], tl.float32)
    for occurrence in range(tl.load(starts + place), tl.load(starts + place + 1)):
        source = delta + tl.load(rows + occurrence).to(tl.int64) * width + columns
        value = tl.load(source, mask=inside, other=0.0).to(tl.float32)
        gradient += tl.load(values + occurrence) * value
    feature = tl.load(features + place).to(tl.int64)
    square = tl.load(state + feature) + tl.sum(gradient * gradient, 0) / width
    tl.store(state + feature, square)
    target = table + feature * width + columns
    moved = tl.load(target, mask=inside, other=0.0)
    moved -= rate / (tl.sqrt(square) + 1e-10) * gradient
    tl.store(target, moved, mask=inside)


def blocks(count: int, block: int = BLOCK) -> int:
    """Return how many programs cover `count` numbers."""
    return int(triton.cdiv(count, block))


def whole_row(width: int) -> int:
    """Return the block that holds a row of `width` numbers: a power of two."""
    return int(triton.next_power_of_2(width))


Kernel = Any
"""What `triton.jit` returns: launched as kernel[grid](arguments)."""
