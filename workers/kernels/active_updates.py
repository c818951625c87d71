"""Optimisers of layers of which each row computes some neurons only; see `workers.kernels.active`.

`workers/kernels/active_reference.py` is the definition; the tests hold the two equal.
"""

from __future__ import annotations

import numpy as np

from workers.jit import kernel
from workers.kernels.active import Tally, add_to
from workers.kernels.cpu import adam_step
from workers.kernels.numbers import ZERO, Floats, Ids, Numbers, Offsets, as_stored


@kernel
def by_neuron(ids: Ids, counts: Ids, width: int) -> tuple[Ids, Offsets, Ids, Offsets]:
    """Turn rows of active neurons into neurons with their rows.

    Args:
        ids: (n, m) active neurons.
        counts: (n,) how many.
        width: of the layer.

    Returns:
        The distinct active neurons (u,), ascending; starts (u + 1,); rows and places (active,):
        neuron u is active in rows[starts[u]:starts[u + 1]], ascending, and stands at these places
        of `ids`, flat.
    """
    sizes = np.zeros(width, np.int32)
    total = 0
    for row in range(len(counts)):
        total += counts[row]
        for i in range(counts[row]):
            sizes[ids[row, i]] += 1
    free = np.empty(width, np.int64)
    neurons = np.empty(min(width, total), np.int32)
    starts = np.empty(len(neurons) + 1, np.int64)
    used, begin = 0, 0
    for neuron in range(width):
        if sizes[neuron]:
            neurons[used], starts[used], free[neuron] = neuron, begin, begin
            used += 1
            begin += sizes[neuron]
    starts[used] = begin
    rows, places = np.empty(total, np.int32), np.empty(total, np.int64)
    for row in range(len(counts)):
        for i in range(counts[row]):
            neuron = ids[row, i]
            rows[free[neuron]], places[free[neuron]] = row, row * ids.shape[1] + i
            free[neuron] += 1
    return neurons[:used], starts[: used + 1], rows, places


@kernel
def back_active(
    start: int,
    stop: int,
    neurons: Ids,
    starts: Offsets,
    rows: Ids,
    places: Offsets,
    delta: Floats,
    in_ids: Ids,
    in_counts: Ids,
    inputs: Floats,
    in_delta: Floats,
    weight: Floats,
    first: Floats,
    second: Floats,
    rates: Floats,
    corrections: Floats,
    tally: Tally,
) -> None:
    """Add what neurons[start:stop] give to the gradient at their inputs, then update them.

    With Adam, as `cpu.adam_matrix`. A weight moves, and its moments change, only in steps in which
    some row has both of its ends active.

    Args:
        start: of `neurons`.
        stop: likewise.
        neurons: of `by_neuron`, as the others.
        starts: likewise.
        rows: likewise.
        places: likewise.
        delta: (n, m) the gradient at the active neurons.
        in_ids: of the layer's inputs, as the others.
        in_counts: likewise.
        inputs: likewise.
        in_delta: (n, inputs) is added to.
        weight: (width, inputs).
        first: its first moments.
        second: its second moments.
        rates: (u,) of the neurons; see `workers.kernels.adam`.
        corrections: likewise.
        tally: see above.
    """
    width = weight.shape[1]
    flat = delta.reshape(-1)
    gradient = np.zeros(width, np.float32)
    used = np.zeros(width, np.bool_)
    columns = np.empty(width, np.int32)
    for position in range(start, stop):
        neuron = neurons[position]
        w, m, v = weight[neuron], first[neuron], second[neuron]
        rate, correction = rates[position], corrections[position]
        some, whole, done = 0, False, 0
        for p in range(starts[position], starts[position + 1]):
            row, d = rows[p], flat[places[p]]
            x, into, count = inputs[row], in_delta[row], in_counts[row]
            done += count
            if count == width:
                whole = True
                for k in range(width):
                    into[k] += d * w[k]
                    gradient[k] += d * x[k]
                continue
            before = in_ids[row]
            for i in range(count):
                k = before[i]
                into[i] += d * w[k]
                gradient[k] += d * x[i]
                if not used[k]:
                    used[k] = True
                    columns[some] = k
                    some += 1
        moved = width if whole else some
        if whole:
            for k in range(width):
                w[k], m[k], v[k] = adam_step(w[k], gradient[k], m[k], v[k], rate, correction)
            gradient[:], used[:] = ZERO, False
        else:
            for i in range(some):
                k = columns[i]
                w[k], m[k], v[k] = adam_step(w[k], gradient[k], m[k], v[k], rate, correction)
                gradient[k], used[k] = ZERO, False
        add_to(tally, 2 * done + 7 * moved, 2 * done + 4 * moved, 12 * done + 24 * moved)


@kernel
def add_parts(
    start: int,
    stop: int,
    parts: Floats,
    in_counts: Ids,
    inputs: Floats,
    relu: bool,
    in_delta: Floats,
    tally: Tally,
) -> None:
    """Write the gradient at a layer's inputs, from its parts (p, n, inputs) in their order."""
    for row in range(start, stop):
        count, line, x = in_counts[row], in_delta[row], inputs[row]
        line[:count] = parts[0, row, :count]
        for part in range(1, parts.shape[0]):
            other = parts[part, row]
            for k in range(count):
                line[k] += other[k]
        if relu:
            for k in range(count):
                line[k] = line[k] if x[k] > ZERO else ZERO
        done = (parts.shape[0] - 1) * count
        add_to(tally, 0, done + count, 4 * done + 12 * count)


@kernel
def idle_rows(
    start: int,
    stop: int,
    weight: Floats,
    copy: Numbers,
    first: Floats,
    second: Floats,
    moves: Floats,
    firsts: Floats,
    seconds: Floats,
) -> None:
    """Make up for the steps that rows[start:stop] of a weight matrix did not make.

    As Adam moves what has no gradient; for the last three see `workers.kernels.adam.Idle`.

    Args:
        start: of the rows.
        stop: likewise.
        weight: (width, inputs).
        copy: of it for products, or it itself.
        first: its first moments.
        second: its second moments.
        moves: (width,) of the rows.
        firsts: likewise.
        seconds: likewise.
    """
    for row in range(start, stop):
        w, m, v, narrow = weight[row], first[row], second[row], copy[row]
        for k in range(w.shape[0]):
            w[k] -= moves[row] * m[k] / (np.sqrt(v[k]) + np.float32(1e-8))
            m[k] *= firsts[row]
            v[k] *= seconds[row]
            narrow[k] = as_stored(narrow, w[k])


@kernel
def adam_active_bias(
    start: int,
    stop: int,
    neurons: Ids,
    starts: Offsets,
    rows: Ids,
    places: Offsets,
    delta: Floats,
    bias: Floats,
    first: Floats,
    second: Floats,
    rates: Floats,
    corrections: Floats,
    tally: Tally,
) -> None:
    """Update the biases of neurons[start:stop], as `back_active` does the weights."""
    flat = delta.reshape(-1)
    for position in range(start, stop):
        neuron, gradient = neurons[position], ZERO
        for place in places[starts[position] : starts[position + 1]]:
            gradient += flat[place]
        bias[neuron], first[neuron], second[neuron] = adam_step(
            bias[neuron],
            gradient,
            first[neuron],
            second[neuron],
            rates[position],
            corrections[position],
        )
        done = starts[position + 1] - starts[position]
        add_to(tally, 7, done + 4, 4 * done + 24)


@kernel
def adagrad_active(
    start: int,
    stop: int,
    features: Ids,
    starts: Offsets,
    rows: Ids,
    values: Floats,
    ids: Ids,
    counts: Ids,
    delta: Floats,
    table: Floats,
    state: Floats,
    rate: float,
    tally: Tally,
) -> None:
    """Update the input layer's rows table[features[start:stop]] with row-wise Adagrad.

    As `cpu.adagrad_rows`, from the gradient at the active neurons.
    """
    width = table.shape[1]
    gradient = np.zeros(width, np.float32)
    for position in range(start, stop):
        feature, done = features[position], 0
        for occurrence in range(starts[position], starts[position + 1]):
            row, value = rows[occurrence], values[occurrence]
            for i in range(counts[row]):
                gradient[ids[row, i]] += value * delta[row, i]
            done += counts[row]
        square = ZERO
        for j in range(width):
            square += gradient[j] * gradient[j]
        state[feature] += square / np.float32(width)
        step = np.float32(rate) / (np.sqrt(state[feature]) + np.float32(1e-10))
        target = table[feature]
        for j in range(width):
            target[j] -= step * gradient[j]
            gradient[j] = ZERO
        add_to(tally, done + 2 * width + 3, done + 2 * width + 1, 4 * done + 8 * width)
