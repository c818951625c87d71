"""Losses on the CPU: logits into gradients or probabilities, each over a span of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.jit import inline, kernel
from workers.kernels.numbers import ONE, ZERO, Floats, Ids, Numbers, Offsets, as_stored, exp, load

_LANES = 64
"""Numbers that are worked on side by side."""


@inline
def is_new(buckets: Any, first: Any, position: Any) -> Any:
    """Return whether a row, whose sorted buckets begin at `first`, has none like it before."""
    return position == first or buckets[position] != buckets[position - 1]


@inline
def _max(z: Any) -> Any:
    # A maximum that minds NaNs does not vectorise as one chain, but does as many side by side.
    tops = np.full(_LANES, -np.inf, np.float32)
    whole = z.shape[0] - z.shape[0] % _LANES
    for begin in range(0, whole, _LANES):
        block = z[begin : begin + _LANES]
        for lane in range(_LANES):
            tops[lane] = max(tops[lane], block[lane])
    top = np.float32(-np.inf)
    for lane in range(_LANES):
        top = max(top, tops[lane])
    for j in range(whole, z.shape[0]):
        top = max(top, z[j])
    return top


@inline
def _softmax(z: Any) -> Any:
    # Leave exp(z - max) in z; return the maximum and the sum.
    top = _max(z)
    total = ZERO
    for j in range(z.shape[0]):
        z[j] = exp(z[j] - top)
        total += z[j]
    return top, total


@kernel
def softmax_gradient(
    start: int,
    stop: int,
    logits: Numbers,
    bias: Floats,
    offsets: Offsets,
    buckets: Ids,
    scale: Floats,
    losses: Floats,
) -> None:
    """Turn logits into gradients in place, and write each row's loss.

    The loss of a row with n labels is the mean over them of -log softmax(logits +
    bias)[bucket]; the gradient is scaled by scale[row].
    """
    z = np.empty(logits.shape[1], np.float32)
    for row in range(start, stop):
        line = logits[row]
        for j in range(z.shape[0]):
            z[j] = load(line[j]) + bias[j]
        first, last = offsets[row], offsets[row + 1]
        share = ONE / np.float32(max(last - first, 1))
        at_labels = ZERO
        for position in range(first, last):
            at_labels += share * z[buckets[position]]
        top, total = _softmax(z)
        for position in range(first, last):
            z[buckets[position]] -= share * total
        factor = scale[row] / total
        for j in range(z.shape[0]):
            line[j] = as_stored(line, z[j] * factor)
        losses[row] = np.log(total) + top - at_labels


@kernel
def bce_gradient(
    start: int,
    stop: int,
    logits: Numbers,
    bias: Floats,
    offsets: Offsets,
    buckets: Ids,
    scale: Floats,
    losses: Floats,
) -> None:
    """Turn logits into gradients in place, and write each row's loss.

    The loss of a row is the sum over all B buckets of the binary cross-entropy
    of sigmoid(logits + bias); a bucket's target is 1 if any label fell into it.
    A row's buckets are sorted, so that repeats stand side by side.
    """
    width = logits.shape[1]
    z = np.empty(-(-width // _LANES) * _LANES, np.float32)
    products = np.empty(_LANES, np.float32)
    sums = np.empty(_LANES, np.float32)
    for row in range(start, stop):
        line = logits[row]
        for j in range(width):
            z[j] = load(line[j]) + bias[j]
        z[width:] = -np.inf
        sums[:] = ZERO
        # The sum of log(1 + small) as the log of a product of at most 64 factors, which stays
        # below 2^64: a log for every bucket would cost more than all the rest.
        for begin in range(0, z.shape[0], 64 * _LANES):
            products[:] = ONE
            for block in range(begin, min(begin + 64 * _LANES, z.shape[0]), _LANES):
                x = z[block : block + _LANES]
                for lane in range(_LANES):
                    small = exp(-abs(x[lane]))
                    sums[lane] += max(x[lane], ZERO)
                    products[lane] *= ONE + small
                    x[lane] = (ONE if x[lane] >= ZERO else small) / (ONE + small)
            for lane in range(_LANES):
                sums[lane] += np.log(products[lane])
        loss = sums.sum()
        for position in range(offsets[row], offsets[row + 1]):
            bucket = buckets[position]
            if is_new(buckets, offsets[row], position):
                loss -= load(line[bucket]) + bias[bucket]
                z[bucket] -= ONE
        for j in range(width):
            line[j] = as_stored(line, z[j] * scale[row])
        losses[row] = loss


@kernel
def softmax_probabilities(
    start: int, stop: int, logits: Numbers, bias: Floats, out: Floats
) -> None:
    """Write out[i] = softmax(logits[i] + bias)."""
    for row in range(start, stop):
        line, z = logits[row], out[row]
        for j in range(z.shape[0]):
            z[j] = load(line[j]) + bias[j]
        _, total = _softmax(z)
        for j in range(z.shape[0]):
            z[j] = z[j] / total


@kernel
def bce_probabilities(start: int, stop: int, logits: Numbers, bias: Floats, out: Floats) -> None:
    """Write out[i] = sigmoid(logits[i] + bias)."""
    for row in range(start, stop):
        line, z = logits[row], out[row]
        for j in range(z.shape[0]):
            x = load(line[j]) + bias[j]
            small = exp(-abs(x))
            z[j] = (ONE if x >= ZERO else small) / (ONE + small)
