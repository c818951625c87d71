"""Which neurons are active: those that hash tables name most often.

A neuron has one code in each table, so that a row's tables name it L times at most, below 128.
Votes are bytes, and looked through eight at a time for those that have enough.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.hashing import GOLDEN, mix64_jit
from workers.jit import inline, kernel, prefetch_line
from workers.kernels.numbers import Ids, Offsets
from workers.lsh.codes import Codes

Votes = NDArray[np.uint8]

_GOLDEN, _S33 = np.uint64(GOLDEN), np.uint64(33)
TAKEN = np.uint8(255)
"""In place of a number of votes: is active already."""
_FAR, _NEAR = 16, 8
"""Tables ahead of which the CPU is asked for the places of a bucket, and for the bucket."""
_LINE, _LINES = 16, 4
"""Neurons in a cache line, and lines of a bucket that are asked for: the CPU guesses the rest."""
_SEEDING = 8
"""Tables whose codes tell rows apart where something is random."""
_EIGHT = 8
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
"""Eight times 1, and eight times 128: what is at least 128 has that bit."""


@kernel
def pick(
    start: int,
    stop: int,
    codes: Codes,
    starts: Ids,
    sizes: Ids,
    neurons: Ids,
    width: int,
    wanted: int,
    offsets: Offsets,
    own: Ids,
    seed: np.uint64,
    ids: Ids,
    counts: Ids,
) -> int:
    """Write the active sets of some rows.

    A row's own neurons come first, then those that tables name: those that most of them name; of
    those that equally many name the first from a random place on, of those that one table names
    the first from a random table on. If they are too few, the rest is random. What is random
    follows from the seed and a row's codes, so that it does not matter what rows are beside it.

    Args:
        start: of the rows.
        stop: likewise.
        codes: (stop - start, L, probes) of these rows.
        starts: of the tables.
        sizes: likewise.
        neurons: likewise.
        width: how many neurons there are.
        wanted: active ones of a row, unless its own are more; at most `width`.
        offsets: (n + 1,) of `own`.
        own: each row's neurons that are active in any case, ascending, perhaps repeated.
        seed: of what is random; another one in each step.
        ids: (n, m) written.
        counts: (n,) written.

    Returns:
        Additions and comparisons.
    """
    votes = np.zeros(-(-width // _EIGHT) * _EIGHT, np.uint8)
    found = np.empty(width, np.int32)
    levels = np.empty(128, np.int64)
    additions, least = 0, 2
    for row in range(start, stop):
        line = ids[row]
        asked = codes[row - start]
        additions += _vote(asked, starts, sizes, neurons, votes)
        count = _take_own(own[offsets[row] : offsets[row + 1]], votes, line)
        state = seed
        for table in range(min(len(asked), _SEEDING)):
            state = mix64_jit(state + np.uint64(asked[table, 0]) + _GOLDEN)
        begin = ((state >> _S33) * np.uint64(len(votes) // _EIGHT)) >> np.uint64(31)
        looks, some = _find(votes, least, np.int64(begin), found, levels)
        while some < wanted - count and least > 2:
            additions += looks
            least -= 1
            looks, some = _find(votes, least, np.int64(begin), found, levels)
        # The next row is likely to need as many votes.
        before = count
        count, least = _take_named(votes, found[:some], levels, wanted - count, line, count)
        if count < wanted:
            here = np.int64(begin) % asked.shape[0]
            count = _take_others(asked, starts, sizes, neurons, here, votes, wanted, line, count)
        additions += looks + some + count - before
        while count < wanted:
            state += _GOLDEN
            neuron = np.int64(((mix64_jit(state) >> _S33) * np.uint64(width)) >> np.uint64(31))
            if votes[neuron] != TAKEN:
                votes[neuron] = TAKEN
                line[count] = neuron
                count += 1
        counts[row] = count
        votes[:] = 0
    return additions


@inline
def _vote(codes: Any, starts: Any, sizes: Any, neurons: Any, votes: Any) -> Any:
    """Count the votes of all tables for one row; return how many there were."""
    tables, probes = codes.shape
    names = 0
    for ahead in range(-_FAR, tables):
        # Each bucket is a leap in memory: where it begins is asked for first, then who is in it.
        for probe in range(probes):
            far, near = ahead + _FAR, ahead + _NEAR
            if far < tables:
                prefetch_line(starts, far, codes[far, probe])
                prefetch_line(sizes, far, codes[far, probe])
            if 0 <= near < tables:
                begin = starts[near, codes[near, probe]]
                for line in range(_LINES):
                    prefetch_line(neurons, near, begin + line * _LINE)
            if ahead >= 0:
                code = codes[ahead, probe]
                begin, size = starts[ahead, code], sizes[ahead, code]
                mine = neurons[ahead, begin : begin + size]
                for neuron in mine:
                    votes[neuron] += np.uint8(1)
                names += size
    return names


@inline
def _take_own(own: Any, votes: Any, line: Any) -> Any:
    count = 0
    for neuron in own:
        if votes[neuron] != TAKEN:
            votes[neuron] = TAKEN
            line[count] = neuron
            count += 1
    return count


@inline
def _find(votes: Any, least: Any, begin: Any, found: Any, levels: Any) -> Any:
    """Find neurons that at least so many tables name, from eight times `begin` on, around.

    Write how many have how many votes to `levels`; return comparisons, and how many were found.
    """
    words = votes.view(np.uint64)
    levels[:] = 0
    some, hits = 0, 0
    lift = np.uint64(128 - least) * _ONES
    for i in range(len(words)):
        word = begin + i
        word -= len(words) if word >= len(words) else 0
        # What is taken may lift its neighbour by one too much: each is looked at again.
        if (words[word] + lift) & _TOPS:
            hits += 1
            for neuron in range(_EIGHT * word, _EIGHT * word + _EIGHT):
                vote = np.int64(votes[neuron])
                if least <= vote < 128:
                    found[some] = neuron
                    some += 1
                    levels[vote] += 1
    return len(words) + _EIGHT * hits + some, some


@inline
def _take_named(votes: Any, found: Any, levels: Any, room: Any, line: Any, count: Any) -> Any:
    """Take those with the most votes; return how many are active, and the fewest votes of one."""
    least = 128
    while least > 1 and levels[least - 1] <= room:
        least -= 1
        room -= levels[least]
    # All with so many votes are taken, and of those with one less as many as there is room for.
    room = max(room, 0)
    for neuron in found:
        vote = np.int64(votes[neuron])
        last = vote == least - 1 and room > 0
        room -= int(last)
        if last or vote >= least:
            votes[neuron] = TAKEN
            line[count] = neuron
            count += 1
    return count, max(least - 1, 2)


@inline
def _take_others(
    codes: Any,
    starts: Any,
    sizes: Any,
    neurons: Any,
    begin: Any,
    votes: Any,
    wanted: Any,
    line: Any,
    count: Any,
) -> Any:
    """Take those that one table names, from table `begin` on, around, while there is room."""
    tables = codes.shape[0]
    for turn in range(tables):
        table = (begin + turn) % tables
        for code in codes[table]:
            first = starts[table, code]
            for place in range(first, first + sizes[table, code]):
                neuron = neurons[table, place]
                if count < wanted and votes[neuron] != TAKEN:
                    votes[neuron] = TAKEN
                    line[count] = neuron
                    count += 1
        if count == wanted:
            break
    return count
