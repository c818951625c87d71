"""Hash tables of neurons in flat arrays: which of them have a given code.

A bucket's neurons stand side by side, in ascending order, with room for more: so they are read
without a leap, and what a bucket holds depends on the codes alone, not on how they came about.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.jit import kernel
from workers.kernels.numbers import Ids
from workers.lsh.codes import Codes
from workers.threads import Pool


class Tables:
    """L hash tables of n neurons.

    Args:
        codes: (L, n) uint16, kept and changed in place by `move`.
        bits: b: codes are below 2^b.
        pool: threads that build the tables, one each.
    """

    def __init__(self, codes: Codes, bits: int, pool: Pool) -> None:
        tables, neurons = codes.shape
        self.codes = codes
        room = neurons + (neurons >> 2) + (2 << bits)
        self.starts: Ids = np.empty((tables, (1 << bits) + 1), np.int32)
        """(L, 2^b + 1) where each bucket begins in `neurons`."""
        self.sizes: Ids = np.empty((tables, 1 << bits), np.int32)
        """(L, 2^b) how many it holds."""
        self.neurons: Ids = np.empty((tables, room), np.int32)
        """(L, room) the neurons of all buckets, ascending within one."""
        self._pool = pool
        self.build()

    def build(self) -> None:
        """Build all tables from `codes`."""
        self._pool.run(self._build, [(table,) for table in range(len(self.codes))])

    def _build(self, table: int) -> None:
        fill(self.codes[table], self.starts[table], self.sizes[table], self.neurons[table])

    def move(self, neurons: Ids, codes: Codes) -> None:
        """Give some neurons other codes.

        Args:
            neurons: (m,) int32, distinct.
            codes: (L, m) uint16.
        """

        def work(table: int) -> None:
            mine = self.codes[table], self.starts[table], self.sizes[table], self.neurons[table]
            if not move(neurons, codes[table], *mine):
                self._build(table)

        self._pool.run(work, [(table,) for table in range(len(self.codes))])


def table_bytes(neurons: int, bits: int) -> int:
    """Return the bytes of one table, its codes apart."""
    return 4 * (neurons + (neurons >> 2) + (4 << bits))


@kernel
def fill(codes: Codes, starts: Ids, sizes: Ids, neurons: Ids) -> None:
    """Write one table's neurons by code.

    Args:
        codes: (n,) of the neurons.
        starts: (2^b + 1,) written.
        sizes: (2^b,) written.
        neurons: (room,) written.
    """
    sizes[:] = 0
    for code in codes:
        sizes[code] += 1
    starts[0] = 0
    for code in range(len(sizes)):
        starts[code + 1] = starts[code] + sizes[code] + (sizes[code] >> 2) + 2
    free = starts[:-1].copy()
    for neuron in range(len(codes)):
        code = codes[neuron]
        neurons[free[code]] = neuron
        free[code] += 1


@kernel
def move(
    moved: Ids, wanted: Codes, codes: Codes, starts: Ids, sizes: Ids, neurons: NDArray[np.int32]
) -> bool:
    """Move neurons of one table to the buckets of other codes.

    Args:
        moved: (m,) the neurons.
        wanted: (m,) their codes from now on.
        codes: (n,) of all neurons, changed in place.
        starts: of the table, as the others.
        sizes: likewise.
        neurons: likewise.

    Returns:
        Whether there was room in all buckets; if not, only `codes` is right.
    """
    room = True
    for i in range(len(moved)):
        neuron, old, new = moved[i], codes[moved[i]], wanted[i]
        if old == new:
            continue
        codes[neuron] = new
        room &= sizes[new] < starts[new + 1] - starts[new]
        if room:
            _remove(neuron, neurons[starts[old] : starts[old] + sizes[old]])
            sizes[old] -= 1
            sizes[new] += 1
            _insert(neuron, neurons[starts[new] : starts[new] + sizes[new]])
    return room


@kernel
def _remove(neuron: int, bucket: Ids) -> None:
    place = np.searchsorted(bucket, neuron)
    for i in range(place, len(bucket) - 1):
        bucket[i] = bucket[i + 1]


@kernel
def _insert(neuron: int, bucket: Ids) -> None:
    """Insert a neuron into a bucket whose last place is free."""
    place = len(bucket) - 1
    while place > 0 and bucket[place - 1] > neuron:
        bucket[place] = bucket[place - 1]
        place -= 1
    bucket[place] = neuron
