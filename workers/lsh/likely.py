"""Which neurons a batch shares: those that one of its rows makes much of.

A row's tables name a few candidates, whose activations are then really computed. So a set is chosen
by what the network says of them, and hash tables only spare it from asking about all others.
"""

from __future__ import annotations

import numpy as np

from workers.jit import kernel, prefetch_line
from workers.kernels.numbers import ONE, ZERO, Floats, Ids, Numbers, exp, load

_AHEAD = 4
"""Candidates ahead of which the CPU is asked for a neuron's weights."""
_LINE, _LINES = 64, 4
"""Bytes of a cache line, and lines of a neuron that are asked for: the CPU guesses the rest."""


@kernel
def chances(
    start: int,
    stop: int,
    ids: Ids,
    counts: Ids,
    inputs: Numbers,
    weight: Numbers,
    bias: Floats,
    softmax: bool,
    out: Floats,
) -> None:
    """Write how likely rows[start:stop] find each of their candidates.

    Args:
        start: of the rows.
        stop: likewise.
        ids: (n, m) candidates.
        counts: (n,) how many.
        inputs: (n, inputs) of the layer.
        weight: (width, inputs).
        bias: (width,).
        softmax: whether one of them is the answer, as if there were no others; else each may be.
        out: (n, m) written.
    """
    x = np.empty(inputs.shape[1], np.float32)
    step = _LINE // weight.itemsize
    for row in range(start, stop):
        mine, line, count = ids[row], out[row], counts[row]
        for k in range(len(x)):
            x[k] = load(inputs[row, k])
        top = np.float32(-np.inf)
        for i in range(count):
            if i + _AHEAD < count:
                for part in range(_LINES):
                    prefetch_line(weight, mine[i + _AHEAD], part * step)
            w, total = weight[mine[i]], ZERO
            for k in range(len(x)):
                total += load(w[k]) * x[k]
            line[i] = total + bias[mine[i]]
            top = max(top, line[i])
        if softmax:
            total = ZERO
            for i in range(count):
                line[i] = exp(line[i] - top)
                total += line[i]
            for i in range(count):
                line[i] /= total
        else:
            for i in range(count):
                line[i] = ONE / (ONE + exp(-line[i]))


def most_likely(
    ids: Ids, counts: Ids, found: Floats, own: Ids, wanted: int, begin: int, width: int
) -> Ids:
    """Return the neurons of a batch, ascending: those that some row finds most likely.

    Args:
        ids: (n, m) candidates of the rows.
        counts: (n,) how many.
        found: (n, m) above 0: how likely rows find them.
        own: neurons that are among them in any case, perhaps repeated.
        wanted: how many, unless those are more; of equally likely ones the first.
        begin: where candidates are too few, others are taken, from this one on, around.
        width: how many neurons there are.
    """
    best = np.zeros(width, np.float32)
    _highest(ids, counts, found, best)
    best[own] = np.inf
    named = np.flatnonzero(best).astype(np.int32)
    scores = best[named]
    wanted = max(wanted, int(np.isinf(scores).sum()))
    missing = wanted - len(named)
    if missing >= 0:
        others = np.flatnonzero(best == 0).astype(np.int32)
        others = np.roll(others, -int(np.searchsorted(others, begin)))[:missing]
        return np.sort(np.concatenate([named, others]))
    least = np.partition(scores, -wanted)[-wanted]
    sure, last = named[scores > least], named[scores == least]
    return np.sort(np.concatenate([sure, last[: wanted - len(sure)]]))


@kernel
def _highest(ids: Ids, counts: Ids, found: Floats, best: Floats) -> None:
    for row in range(len(counts)):
        for i in range(counts[row]):
            neuron = ids[row, i]
            if found[row, i] > best[neuron]:
                best[neuron] = found[row, i]
