"""The compiled inside of looking into buckets: whom they name, and what is known of them by that.

The classes of several worlds' buckets are gathered as words, a class above the place of the bucket
that names it. Sorted, the words of a class stand side by side, and classes in the order in which
the lookup has them: neighbours in memory are asked for one after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.jit import exact_kernel
from workers.permutation import Words, permute_words

Exact = NDArray[np.float64]
Ids = NDArray[np.int64]
Buckets = NDArray[np.int32]


@exact_kernel
def name_classes(
    worlds: Buckets,
    buckets: Buckets,
    width: int,
    classes: int,
    bits: int,
    low_bits: int,
    keys: Words,
    first: int,
    shift: int,
    parts: int,
    out: Words,
    ends: Ids,
) -> None:
    """Write the words of all classes of some buckets, one part of all classes after the other.

    Args:
        worlds: (n,) the worlds of the buckets.
        buckets: (n,) the buckets.
        width: B.
        classes: K.
        bits: of the permutations, `workers.partition.PackedPermutations`.
        low_bits: likewise.
        keys: (R, rounds) likewise.
        first: the place of the first bucket; the others follow.
        shift: bits of a word that tell the place.
        parts: into how many all classes are cut.
        out: written; room for all classes of the buckets.
        ends: (parts + 1,) written: the words of part p are those from ends[p] to ends[p + 1].
    """
    named, size = np.empty_like(out), 0
    for task in range(len(buckets)):
        begin = size
        for image in range(buckets[task], classes, width):
            named[size] = np.uint64(image)
            size += 1
        mine = named[begin:size]
        permute_words(mine, classes, bits, low_bits, keys[worlds[task]], True, mine)
        place = np.uint64(first + task)
        for other in range(len(mine)):
            mine[other] = (mine[other] << np.uint64(shift)) | place
    scale = parts / classes
    ends[:] = 0
    for word in named[:size]:
        ends[np.int64((word >> np.uint64(shift)) * scale) + 1] += 1
    for part in range(parts):
        ends[part + 1] += ends[part]
    filled = ends[:-1].copy()
    for word in named[:size]:
        owner = np.int64((word >> np.uint64(shift)) * scale)
        out[filled[owner]] = word
        filled[owner] += 1


@exact_kernel
def add_gains(words: Words, shift: int, gains: Exact, classes: Words, totals: Exact) -> int:
    """Write the distinct classes of ascending words, and what they gain by being named.

    Args:
        words: of `name_classes`, ascending.
        shift: likewise.
        gains: what each place gives.
        classes: room for as many as there are words; written.
        totals: likewise; the sums of what a class's places give.

    Returns:
        How many classes there are.
    """
    mask = (np.uint64(1) << np.uint64(shift)) - np.uint64(1)
    count = 0
    for word in words:
        class_id = word >> np.uint64(shift)
        if count == 0 or classes[count - 1] != class_id:
            classes[count], totals[count] = class_id, 0.0
            count += 1
        totals[count - 1] += gains[np.int64(word & mask)]
    return count
