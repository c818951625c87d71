"""Layers and optimisers on the CPU, each over a span of rows, buckets or features.

Every kernel writes only to its span [start, stop), so that spans may be worked
on by different threads. `workers/kernels/reference.py` is the definition of
what a training step computes; the tests hold the two equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.jit import inline, kernel, prefetch_line
from workers.kernels.numbers import ZERO, Floats, Ids, Numbers, Offsets, as_stored, load

_AHEAD = 4
"""How many rows of the input layer ahead the CPU is asked for one."""
_LINE, _LINES = 16, 16
"""Numbers in a cache line, and lines of a row that are asked for: the CPU guesses the rest."""


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
    table: Numbers,
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
                total[j] += value * load(source[j])
        target = out[row]
        for j in range(width):
            target[j] = as_stored(target, max(total[j], floor32))


@kernel
def activate(start: int, stop: int, activations: Numbers, bias: Floats, floor: float) -> None:
    """Turn products into activations in place: max(floor, x + bias)."""
    floor32 = np.float32(floor)
    for row in range(start, stop):
        line = activations[row]
        for j in range(line.shape[0]):
            line[j] = as_stored(line, max(load(line[j]) + bias[j], floor32))


@kernel
def keep_highest(start: int, stop: int, activations: Numbers, count: int) -> None:
    """Zero all but a row's `count` highest activations in place; of equal ones the first stay."""
    width = activations.shape[1]
    values = np.empty(width, np.float32)
    for row in range(start, stop):
        line = activations[row]
        for j in range(width):
            values[j] = load(line[j])
        least = np.partition(values, width - count)[width - count]
        room = count
        for j in range(width):
            room -= int(values[j] > least)
        for j in range(width):
            equal = values[j] == least and room > 0
            room -= int(equal)
            if not (equal or values[j] > least):
                line[j] = as_stored(line, ZERO)


@kernel
def relu_gradient(start: int, stop: int, delta: Numbers, activations: Numbers) -> None:
    """Zero delta in place where the activation is zero."""
    for row in range(start, stop):
        line, active = delta[row], activations[row]
        for j in range(line.shape[0]):
            if not load(active[j]) > ZERO:
                line[j] = as_stored(line, ZERO)


@inline
def adam_step(
    value: Any, gradient: Any, first: Any, second: Any, rate: Any, correction: Any
) -> Any:
    """Return a parameter and its moments after a step; see `adam_matrix`."""
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
    rates: Floats,
    corrections: Floats,
) -> None:
    """Update rows of a weight matrix, and of its copy for products.

    Adam with betas (0.9, 0.999) and epsilon 1e-8 (Kingma and Ba 2015, section 2); for the `rates`
    and `corrections` of the rows see `workers.kernels.adam`.
    """
    for row in range(start, stop):
        w, m, v, g, narrow = weight[row], first[row], second[row], gradient[row], copy[row]
        rate, correction = rates[row], corrections[row]
        for j in range(w.shape[0]):
            w[j], m[j], v[j] = adam_step(w[j], load(g[j]), m[j], v[j], rate, correction)
            narrow[j] = as_stored(narrow, w[j])


@kernel
def adam_bias(
    start: int,
    stop: int,
    delta: Numbers,
    bias: Floats,
    first: Floats,
    second: Floats,
    rates: Floats,
    corrections: Floats,
) -> None:
    """Update bias[start:stop] with the column sums of delta as its gradient, as above."""
    gradient = np.zeros(stop - start, np.float32)
    for row in range(delta.shape[0]):
        line = delta[row, start:stop]
        for j in range(gradient.shape[0]):
            gradient[j] += load(line[j])
    b, m, v = bias[start:stop], first[start:stop], second[start:stop]
    rate, correction = rates[start:stop], corrections[start:stop]
    for j in range(gradient.shape[0]):
        b[j], m[j], v[j] = adam_step(b[j], gradient[j], m[j], v[j], rate[j], correction[j])


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
        gradient[:] = ZERO
        for occurrence in range(starts[position], starts[position + 1]):
            source = delta[rows[occurrence]]
            value = values[occurrence]
            for j in range(width):
                gradient[j] += value * load(source[j])
        square = ZERO
        for j in range(width):
            square += gradient[j] * gradient[j]
        state[feature] += square / np.float32(width)
        step = np.float32(rate) / (np.sqrt(state[feature]) + np.float32(1e-10))
        target = table[feature]
        for j in range(width):
            target[j] -= step * gradient[j]
