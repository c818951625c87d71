"""The active neurons of a batch in one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from workers.kernels import active_updates as updates
from workers.kernels.numbers import Floats, Ids, Offsets
from workers.lsh.layer import Vectors


@dataclass(frozen=True, slots=True)
class Active:
    """The active neurons of n rows in one layer; see `workers.kernels.active`."""

    width: int
    """Of the layer."""
    whole: bool
    """Whether all are active in all rows."""
    ids: Ids
    """(n, room)."""
    counts: Ids
    """(n,)."""
    values: Floats
    """(n, room) activations; of the last layer, logits."""
    deltas: Floats
    """(n, room) the loss's gradient there."""

    @staticmethod
    def empty(rows: int, width: int, room: int, *, whole: bool) -> Active:
        """Return space for n rows of at most `room` active neurons."""
        shape = rows, room
        ids = np.tile(np.arange(room, dtype=np.int32), (rows, 1))
        counts = np.full(rows, room, np.int32)
        values, deltas = np.empty(shape, np.float32), np.empty(shape, np.float32)
        return Active(width, whole, ids, counts, values, deltas)

    def first(self, rows: int) -> Active:
        """Return the first rows."""
        values, deltas = self.values[:rows], self.deltas[:rows]
        return Active(self.width, self.whole, self.ids[:rows], self.counts[:rows], values, deltas)

    def touched(self) -> Touched:
        """Return who is active where."""
        return Touched(*updates.by_neuron(self.ids, self.counts, self.width))

    def vectors(self, start: int, stop: int) -> Vectors:
        """Return the activations of some rows as vectors."""
        begins = np.arange(start, stop, dtype=np.int64) * self.ids.shape[1]
        ids, values = self.ids.reshape(-1), self.values.reshape(-1)
        return Vectors(begins, self.counts[start:stop], ids, values)

    @property
    def inputs(self) -> tuple[Ids, Ids, Floats]:
        """As the inputs of the next layer."""
        return self.ids, self.counts, self.values


class Touched(NamedTuple):
    """The neurons of a layer that some row has active."""

    neurons: Ids
    """(u,) ascending."""
    starts: Offsets
    """(u + 1,) where each one's rows begin."""
    rows: Ids
    """(active,) that have it active."""
    places: Offsets
    """(active,) where it stands there, in `Active.ids`, flat."""
