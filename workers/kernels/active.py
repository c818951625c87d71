"""Layers of which each row computes some neurons only: its active set.

A layer's activations are `ids`, `counts` and `values`: row i has counts[i] active neurons, which
are the first of ids[i], with their values beside them; all others are zero. Where a count is the
width of the layer all neurons are active, in their order, and no id is read.

Every kernel writes only to its span [start, stop), so that spans may be worked on by different
threads, and adds what it did to `tally`: multiplications, divisions and roots; additions and
comparisons; bytes of weights, optimiser and activations read and written.
`workers/kernels/active_reference.py` is the definition; the tests hold the two equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.jit import inline, kernel
from workers.kernels.losses import is_new
from workers.kernels.numbers import ONE, ZERO, Floats, Ids, Offsets, exp

Tally = NDArray[np.int64]

MULTIPLICATIONS, ADDITIONS, BYTES = 0, 1, 2
"""Places in a tally."""
OF_LOSS = {"softmax": (9, 11), "bce": (19, 22)}
"""Multiplications and additions of a loss and its gradient for each bucket; an exponential is 8."""
_SOFTMAX, _BCE = OF_LOSS["softmax"], OF_LOSS["bce"]


@inline
def add_to(tally: Any, multiplications: Any, additions: Any, size: Any) -> None:
    """Add to a tally, in a kernel or for one that keeps none."""
    tally[MULTIPLICATIONS] += multiplications
    tally[ADDITIONS] += additions
    tally[BYTES] += size


@kernel
def bag_active(
    start: int,
    stop: int,
    offsets: Offsets,
    features: Ids,
    values: Floats,
    table: Floats,
    bias: Floats,
    floor: float,
    ids: Ids,
    counts: Ids,
    out: Floats,
    tally: Tally,
) -> None:
    """Write max(floor, bias + the sum of values * table[features]) of active neurons."""
    floor32 = np.float32(floor)
    for row in range(start, stop):
        active, line = ids[row, : counts[row]], out[row]
        for i in range(len(active)):
            line[i] = bias[active[i]]
        for position in range(offsets[row], offsets[row + 1]):
            source, value = table[features[position]], values[position]
            for i in range(len(active)):
                line[i] += value * source[active[i]]
        for i in range(len(active)):
            line[i] = max(line[i], floor32)
        done = (offsets[row + 1] - offsets[row]) * len(active)
        add_to(tally, done, done + len(active), 4 * done + 8 * len(active))


@kernel
def layer_active(
    start: int,
    stop: int,
    neurons: Ids,
    starts: Offsets,
    rows: Ids,
    places: Offsets,
    in_ids: Ids,
    in_counts: Ids,
    inputs: Floats,
    weight: Floats,
    bias: Floats,
    floor: float,
    out: Floats,
    tally: Tally,
) -> None:
    """Write max(floor, bias + weight x inputs) of the active neurons[start:stop].

    Neuron by neuron, each with the rows that have it active, as `active_updates.by_neuron` finds
    them: its weights are read once, in the order of memory, and a batch's inputs stay in the cache.
    """
    floor32 = np.float32(floor)
    width = weight.shape[1]
    flat = out.reshape(-1)
    for position in range(start, stop):
        neuron, done = neurons[position], 0
        w, b = weight[neuron], bias[neuron]
        first, last = starts[position], starts[position + 1]
        for p in range(first, last):
            row = rows[p]
            count, x = in_counts[row], inputs[row]
            total = ZERO
            if count == width:
                for k in range(width):
                    total += w[k] * x[k]
            else:
                before = in_ids[row]
                for k in range(count):
                    total += w[before[k]] * x[k]
            flat[places[p]] = max(total + b, floor32)
            done += count
        add_to(tally, done, done + last - first, 4 * done + 4 * width + 8 * (last - first))


@kernel
def keep_highest(
    start: int,
    stop: int,
    offsets: Offsets,
    own: Ids,
    wanted: int,
    floor: float,
    ids: Ids,
    counts: Ids,
    values: Floats,
    tally: Tally,
) -> None:
    """Keep the highest of each row's neurons, and no activation below the floor.

    Args:
        start: of the rows.
        stop: likewise.
        offsets: (n + 1,) of `own`.
        own: each row's neurons that are kept in any case, ascending, perhaps repeated: as many are
            the first active ones, each once.
        wanted: how many are kept, unless a row's own are more.
        floor: the least activation.
        ids: (n, m) active neurons, changed in place; those that are kept stay in their order.
        counts: (n,) how many, likewise.
        values: (n, m) their activations, likewise.
        tally: see above.
    """
    floor32 = np.float32(floor)
    for row in range(start, stop):
        line, named, count, at = values[row], ids[row], counts[row], 0
        for position in range(offsets[row], offsets[row + 1]):
            at += int(is_new(own, offsets[row], position))
        room = max(wanted - at, 0)
        if 0 < room < count - at:
            least = np.partition(line[at:count], count - at - room)[count - at - room]
            ties = room
            for i in range(at, count):
                ties -= int(line[i] > least)
            for i in range(at, count):
                tie = line[i] == least and ties > 0
                if tie or line[i] > least:
                    ties -= int(tie)
                    line[at], named[at] = line[i], named[i]
                    at += 1
        else:
            at = min(at + room, count)
        counts[row] = at
        for i in range(at):
            line[i] = max(line[i], floor32)
        # A partition looks at each number three or four times.
        add_to(tally, 0, 6 * count, 12 * count)


@kernel
def softmax_active(
    start: int,
    stop: int,
    logits: Floats,
    counts: Ids,
    offsets: Offsets,
    buckets: Ids,
    scale: Floats,
    losses: Floats,
    tally: Tally,
) -> None:
    """Turn logits of active buckets into gradients in place, and write each row's loss.

    As `losses.softmax_gradient`, as if there were no other buckets. A row's own are the first
    active ones, each once, in ascending order.
    """
    for row in range(start, stop):
        count = counts[row]
        z = logits[row, :count]
        first, last = offsets[row], offsets[row + 1]
        share = ONE / np.float32(max(last - first, 1))
        at_labels, place = ZERO, -1
        for position in range(first, last):
            place += int(is_new(buckets, first, position))
            at_labels += share * z[place]
        top = np.float32(-np.inf)
        for i in range(count):
            top = max(top, z[i])
        total = ZERO
        for i in range(count):
            z[i] = exp(z[i] - top)
            total += z[i]
        place = -1
        for position in range(first, last):
            place += int(is_new(buckets, first, position))
            z[place] -= share * total
        factor = scale[row] / total
        for i in range(count):
            z[i] *= factor
        losses[row] = np.log(total) + top - at_labels
        add_to(tally, _SOFTMAX[0] * count, _SOFTMAX[1] * count, 12 * count)


@kernel
def bce_active(
    start: int,
    stop: int,
    logits: Floats,
    counts: Ids,
    offsets: Offsets,
    buckets: Ids,
    scale: Floats,
    losses: Floats,
    tally: Tally,
) -> None:
    """Turn logits of active buckets into gradients in place, and write each row's loss.

    As `losses.bce_gradient`, as if there were no other buckets; for a row's own, see
    `softmax_active`.
    """
    for row in range(start, stop):
        count = counts[row]
        z = logits[row, :count]
        own = 0
        for position in range(offsets[row], offsets[row + 1]):
            own += int(is_new(buckets, offsets[row], position))
        loss = ZERO
        for i in range(count):
            x, target = z[i], ONE if i < own else ZERO
            small = exp(-abs(x))
            loss += max(x, ZERO) - target * x + np.log(ONE + small)
            sigmoid = (ONE if x >= ZERO else small) / (ONE + small)
            z[i] = (sigmoid - target) * scale[row]
        losses[row] = loss
        add_to(tally, _BCE[0] * count, _BCE[1] * count, 12 * count)
