"""Which neurons a row computes: those that hash tables name most often, and some drawn at random.

The tables find neurons that are likely to fire. What they miss is drawn: each of the others with
the same chance, and standing for as many as were not drawn, so that a sum over all buckets is
estimated without bias (importance sampling as in Mussmann and Ermon, "Learning and inference via
maximum inner product search", ICML 2016, section 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.hashing import GOLDEN, mix64_jit
from workers.jit import inline, kernel
from workers.kernels.numbers import ONE, Floats, Ids, Offsets
from workers.lsh.codes import Codes

_GOLDEN, _S33 = np.uint64(GOLDEN), np.uint64(33)
_TAKEN = np.uint8(255)
"""In place of a number of votes: is active already."""


@kernel
def pick(
    start: int,
    stop: int,
    codes: Codes,
    starts: Ids,
    sizes: Ids,
    neurons: Ids,
    width: int,
    named: int,
    wanted: int,
    offsets: Offsets,
    own: Ids,
    seed: np.uint64,
    ids: Ids,
    counts: Ids,
    odds: Floats,
) -> int:
    """Write the active sets of some rows.

    A row's own neurons come first, then those that tables name: those that most of them name, of
    those that equally many name the first found. The rest is drawn at random.

    Args:
        start: of the rows.
        stop: likewise.
        codes: (stop - start, L, probes) of these rows.
        starts: of the tables.
        sizes: likewise.
        neurons: likewise.
        width: how many neurons there are.
        named: most active ones that tables name, a row's own included.
        wanted: active ones of a row, unless its own are more; at most `width`.
        offsets: (n + 1,) of `own`.
        own: each row's neurons that are active in any case, ascending, perhaps repeated.
        seed: of what is drawn; another one in each step.
        ids: (n, m) written.
        counts: (n,) written.
        odds: (n, m) how many neurons each stands for; written.

    Returns:
        Additions and comparisons.
    """
    votes = np.zeros(width, np.uint8)
    found = np.empty(width, np.int32)
    levels = np.empty(256, np.int64)
    additions = 0
    for row in range(start, stop):
        line = ids[row]
        count = _take_own(own[offsets[row] : offsets[row + 1]], votes, line)
        names = _ask(codes[row - start], starts, sizes, neurons, votes, found, levels)
        # Each name is a vote; each found neuron is looked at three times more.
        additions += names[0] + 3 * names[1]
        count = _take_named(votes, found[: names[1]], levels, named, line, count)
        sure = count
        state = mix64_jit(seed + np.uint64(row + 1) * _GOLDEN)
        while count < wanted:
            state += _GOLDEN
            neuron = np.int64(((mix64_jit(state) >> _S33) * np.uint64(width)) >> np.uint64(31))
            if votes[neuron] != _TAKEN:
                votes[neuron] = _TAKEN
                line[count] = neuron
                count += 1
        counts[row] = count
        many = np.float32(width - sure) / np.float32(max(count - sure, 1))
        for i in range(count):
            odds[row, i] = ONE if i < sure else many
            votes[line[i]] = 0
    return additions


@inline
def _take_own(own: Any, votes: Any, line: Any) -> Any:
    count = 0
    for neuron in own:
        if votes[neuron] != _TAKEN:
            votes[neuron] = _TAKEN
            line[count] = neuron
            count += 1
    return count


@inline
def _ask(
    codes: Any, starts: Any, sizes: Any, neurons: Any, votes: Any, found: Any, levels: Any
) -> Any:
    """Count the votes of all tables; return how many there were, and for how many neurons."""
    names, some = 0, 0
    levels[:] = 0
    for table in range(codes.shape[0]):
        for probe in range(codes.shape[1]):
            code = codes[table, probe]
            begin = starts[table, code]
            for place in range(begin, begin + sizes[table, code]):
                neuron = neurons[table, place]
                vote = votes[neuron]
                if vote >= np.uint8(254):
                    continue
                if vote == 0:
                    found[some] = neuron
                    some += 1
                else:
                    levels[vote] -= 1
                votes[neuron] = vote + np.uint8(1)
                levels[vote + 1] += 1
            names += sizes[table, code]
    return names, some


@inline
def _take_named(votes: Any, found: Any, levels: Any, named: Any, line: Any, count: Any) -> Any:
    """Take those with the most votes, and forget all others."""
    room, least = named - count, 255
    while least > 1 and levels[least - 1] <= room:
        least -= 1
        room -= levels[least]
    # All with so many votes are taken, and of those with one less as many as there is room for.
    room = max(room, 0)
    for neuron in found:
        vote = np.int64(votes[neuron])
        last = vote == least - 1 and room > 0
        room -= int(last)
        taken = last or vote >= least
        if taken:
            line[count] = neuron
            count += 1
        votes[neuron] = _TAKEN if taken else np.uint8(0)
    return count
