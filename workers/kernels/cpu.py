"""Compiled kernels for the CPU, each over a span of rows, buckets or features.

Every kernel writes only to its span [start, stop), so that spans may be worked
on by different threads. Matrices that are called `Numbers` hold float32, or
bf16 as its bits (uint16), and one source serves both: arithmetic is in float32
in either case. `workers/kernels/reference.py` is the definition of what a
training step computes; the tests hold the two equal.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from workers.hashing import first_slot, table_size
from workers.jit import inline, kernel, prefetch_line

Numbers = NDArray[Any]
Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Offsets = NDArray[np.int64]

_LOG2E = np.float32(1.4426950408889634)
# Taylor coefficients of 2^x, good to 2 ulp of float32 on [-1/2, 1/2].
_C1, _C2, _C3, _C4, _C5, _C6 = (
    np.float32(c)
    for c in (
        0.6931471805599453,
        0.24022650695910072,
        0.05550410866482158,
        0.009618129107628477,
        0.0013333558146428443,
        0.00015403530393381608,
    )
)
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_LANES = 64
_AHEAD = 4
"""How many rows of the input layer ahead the CPU is asked for one."""
_LINE, _LINES = 16, 16
"""Numbers in a cache line, and lines of a row that are asked for: the CPU guesses the rest."""


@inline
def _widen(bits: Any) -> Any:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@inline
def _narrow(value: Any) -> Any:
    # To the nearest, ties to even, as the hardware does. Numba adds two uint32 to a uint64,
    # which would keep the loop around it from vectorising.
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(bits + np.uint32(odd + np.uint32(0x7FFF)))
    return np.uint16(np.uint32(rounded >> np.uint32(16)))


def _load(value: Any) -> Any:
    raise AssertionError("for compiled code")


def _number(array: Any, value: Any) -> Any:
    raise AssertionError("for compiled code")


@overload(_load, inline="always")
def _load_impl(value: Any) -> Any:
    def wide(value: Any) -> Any:
        return _widen(value)

    def same(value: Any) -> Any:
        return value

    return wide if value == numba.types.uint16 else same


@overload(_number, inline="always")
def _number_impl(array: Any, value: Any) -> Any:
    # What the array holds for a float32. A helper that stored it, too, would not vectorise.
    def narrow(array: Any, value: Any) -> Any:
        return _narrow(value)

    def same(array: Any, value: Any) -> Any:
        return value

    return narrow if array.dtype == numba.types.uint16 else same


@inline
def _exp(x: Any) -> Any:
    # libm's exp is a call, which would keep the loop around it from vectorising.
    scaled = max(x * _LOG2E, np.float32(-126.0))
    whole = np.floor(scaled + np.float32(0.5))
    part = scaled - whole
    power = _ONE + part * (
        _C1 + part * (_C2 + part * (_C3 + part * (_C4 + part * (_C5 + part * _C6))))
    )
    exponent = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23))
    return power * exponent.view(np.float32)


@inline
def _prefetch_row(table: Any, row: Any) -> None:
    for column in range(0, min(table.shape[1], _LINE * _LINES), _LINE):
        prefetch_line(table, row, column)


@kernel
def embedding_bag(
    start: int,
    stop: int,
    offsets: Offsets,
    ids: Ids,
    values: Floats,
    table: Floats,
    bias: Floats,
    floor: float,
    out: Numbers,
) -> None:
    """Write out[i] = max(floor, bias + the sum of values * table[ids] over row i's features)."""
    floor32 = np.float32(floor)
    width = table.shape[1]
    total = np.empty(width, np.float32)
    last = offsets[stop] - 1
    for row in range(start, stop):
        for j in range(width):
            total[j] = bias[j]
        for position in range(offsets[row], offsets[row + 1]):
            _prefetch_row(table, ids[min(position + _AHEAD, last)])
            source = table[ids[position]]
            value = values[position]
            for j in range(width):
                total[j] += value * source[j]
        target = out[row]
        for j in range(width):
            target[j] = _number(target, max(total[j], floor32))


@kernel
def activate(start: int, stop: int, activations: Numbers, bias: Floats, floor: float) -> None:
    """Turn products into activations in place: max(floor, x + bias)."""
    floor32 = np.float32(floor)
    for row in range(start, stop):
        line = activations[row]
        for j in range(line.shape[0]):
            line[j] = _number(line, max(_load(line[j]) + bias[j], floor32))


@kernel
def relu_gradient(start: int, stop: int, delta: Numbers, activations: Numbers) -> None:
    """Zero delta in place where the activation is zero."""
    for row in range(start, stop):
        line, active = delta[row], activations[row]
        for j in range(line.shape[0]):
            if not _load(active[j]) > _ZERO:
                line[j] = _number(line, _ZERO)


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
    total = _ZERO
    for j in range(z.shape[0]):
        z[j] = _exp(z[j] - top)
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
            z[j] = _load(line[j]) + bias[j]
        first, last = offsets[row], offsets[row + 1]
        share = _ONE / np.float32(max(last - first, 1))
        at_labels = _ZERO
        for position in range(first, last):
            at_labels += share * z[buckets[position]]
        top, total = _softmax(z)
        for position in range(first, last):
            z[buckets[position]] -= share * total
        factor = scale[row] / total
        for j in range(z.shape[0]):
            line[j] = _number(line, z[j] * factor)
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
            z[j] = _load(line[j]) + bias[j]
        z[width:] = -np.inf
        sums[:] = _ZERO
        # The sum of log(1 + small) as the log of a product of at most 64 factors, which stays
        # below 2^64: a log for every bucket would cost more than all the rest.
        for begin in range(0, z.shape[0], 64 * _LANES):
            products[:] = _ONE
            for block in range(begin, min(begin + 64 * _LANES, z.shape[0]), _LANES):
                x = z[block : block + _LANES]
                for lane in range(_LANES):
                    small = _exp(-abs(x[lane]))
                    sums[lane] += max(x[lane], _ZERO)
                    products[lane] *= _ONE + small
                    x[lane] = (_ONE if x[lane] >= _ZERO else small) / (_ONE + small)
            for lane in range(_LANES):
                sums[lane] += np.log(products[lane])
        loss = sums.sum()
        for position in range(offsets[row], offsets[row + 1]):
            bucket = buckets[position]
            if position == offsets[row] or bucket != buckets[position - 1]:
                loss -= _load(line[bucket]) + bias[bucket]
                z[bucket] -= _ONE
        for j in range(width):
            line[j] = _number(line, z[j] * scale[row])
        losses[row] = loss


@kernel
def softmax_probabilities(
    start: int, stop: int, logits: Numbers, bias: Floats, out: Floats
) -> None:
    """Write out[i] = softmax(logits[i] + bias)."""
    for row in range(start, stop):
        line, z = logits[row], out[row]
        for j in range(z.shape[0]):
            z[j] = _load(line[j]) + bias[j]
        _, total = _softmax(z)
        for j in range(z.shape[0]):
            z[j] = z[j] / total


@kernel
def bce_probabilities(start: int, stop: int, logits: Numbers, bias: Floats, out: Floats) -> None:
    """Write out[i] = sigmoid(logits[i] + bias)."""
    for row in range(start, stop):
        line, z = logits[row], out[row]
        for j in range(z.shape[0]):
            x = _load(line[j]) + bias[j]
            small = _exp(-abs(x))
            z[j] = (_ONE if x >= _ZERO else small) / (_ONE + small)


@inline
def _adam(value: Any, gradient: Any, first: Any, second: Any, rate: Any, correction: Any) -> Any:
    first = first + np.float32(0.1) * (gradient - first)
    second = second + np.float32(0.001) * (gradient * gradient - second)
    step = rate * first / (np.sqrt(second) * correction + np.float32(1e-8))
    return value - step, first, second


@kernel
def adam_matrix(
    start: int,
    stop: int,
    gradient: Numbers,
    weight: Floats,
    copy: Numbers,
    first: Floats,
    second: Floats,
    rate: float,
    correction: float,
) -> None:
    """Update rows of a weight matrix, and of its copy for products.

    Adam with betas (0.9, 0.999) and epsilon 1e-8 (Kingma and Ba 2015, section 2):
    `rate` is the learning rate over 1 - 0.9^t, `correction` 1 / sqrt(1 - 0.999^t).
    """
    rate32, correction32 = np.float32(rate), np.float32(correction)
    for row in range(start, stop):
        w, m, v, g, narrow = weight[row], first[row], second[row], gradient[row], copy[row]
        for j in range(w.shape[0]):
            w[j], m[j], v[j] = _adam(w[j], _load(g[j]), m[j], v[j], rate32, correction32)
            narrow[j] = _number(narrow, w[j])


@kernel
def adam_bias(
    start: int,
    stop: int,
    delta: Numbers,
    bias: Floats,
    first: Floats,
    second: Floats,
    rate: float,
    correction: float,
) -> None:
    """Update bias[start:stop] with the column sums of delta as its gradient, as above."""
    rate32, correction32 = np.float32(rate), np.float32(correction)
    gradient = np.zeros(stop - start, np.float32)
    for row in range(delta.shape[0]):
        line = delta[row, start:stop]
        for j in range(gradient.shape[0]):
            gradient[j] += _load(line[j])
    b, m, v = bias[start:stop], first[start:stop], second[start:stop]
    for j in range(gradient.shape[0]):
        b[j], m[j], v[j] = _adam(b[j], gradient[j], m[j], v[j], rate32, correction32)


@kernel
def adagrad_rows(
    start: int,
    stop: int,
    features: Ids,
    starts: Offsets,
    rows: Ids,
    values: Floats,
    delta: Numbers,
    table: Floats,
    state: Floats,
    rate: float,
) -> None:
    """Update the input layer's rows table[features[start:stop]] with row-wise Adagrad.

    The gradient of feature f's row is the sum of values * delta[rows] over the
    batch's rows that have it; state[f] gathers the mean square of its entries
    (Duchi et al. 2011, with one accumulator a row). Rows that no example
    touches do not move.
    """
    width = table.shape[1]
    gradient = np.empty(width, np.float32)
    for position in range(start, stop):
        feature = features[position]
        _prefetch_row(table, features[min(position + _AHEAD, stop - 1)])
        gradient[:] = _ZERO
        for occurrence in range(starts[position], starts[position + 1]):
            source = delta[rows[occurrence]]
            value = values[occurrence]
            for j in range(width):
                gradient[j] += value * _load(source[j])
        square = _ZERO
        for j in range(width):
            square += gradient[j] * gradient[j]
        state[feature] += square / np.float32(width)
        step = np.float32(rate) / (np.sqrt(state[feature]) + np.float32(1e-10))
        target = table[feature]
        for j in range(width):
            target[j] -= step * gradient[j]


@kernel
def transpose(offsets: Offsets, ids: Ids, values: Floats) -> tuple[Ids, Offsets, Ids, Floats]:
    """Turn a batch's rows of features into features with their rows.

    Returns:
        features (u,) in order of first appearance, starts (u + 1,), rows and
        values (features,): feature u stands in rows[starts[u]:starts[u + 1]].
    """
    count = ids.shape[0]
    # Open addressing, in a table of the batch's size and not of d.
    size = table_size(count)
    place = np.full(size, -1, np.int32)
    slots = np.empty(count, np.int32)
    features = np.empty(count, np.int32)
    sizes = np.zeros(count + 1, np.int64)
    used = 0
    for position in range(count):
        feature = ids[position]
        slot = first_slot(feature, size)
        while place[slot] >= 0 and features[place[slot]] != feature:
            slot = (slot + 1) & (size - 1)
        if place[slot] < 0:
            place[slot] = used
            features[used] = feature
            used += 1
        slots[position] = place[slot]
        sizes[slots[position] + 1] += 1
    starts = np.cumsum(sizes[: used + 1])
    free = starts.copy()
    rows = np.empty(count, np.int32)
    out = np.empty(count, np.float32)
    for row in range(offsets.shape[0] - 1):
        for position in range(offsets[row], offsets[row + 1]):
            slot = slots[position]
            rows[free[slot]] = row
            out[free[slot]] = values[position]
            free[slot] += 1
    return features[:used], starts, rows, out


@kernel
def sort_within_rows(offsets: Offsets, buckets: Ids) -> None:
    """Sort, in place, each row's buckets[offsets[i]:offsets[i + 1]]."""
    for row in range(offsets.shape[0] - 1):
        buckets[offsets[row] : offsets[row + 1]].sort()
