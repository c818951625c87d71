"""Who chooses active neurons, and how hash tables do."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from workers.hashing import derive_seed
from workers.kernels.numbers import Ids, Offsets
from workers.lsh.active import Active
from workers.lsh.config import LshConfig
from workers.lsh.layer import HashedLayer, Vectors, Work
from workers.lsh.picking import pick

FEW = 128
"""Neurons of a layer for one that a step moved, from which on those are hashed anew at once."""


class Chooser(Protocol):
    """Chooses the active neurons of rows, layer by layer."""

    def reload(self) -> None:
        """Take over a state that was changed from outside."""

    def begin(self, step: int) -> Work:
        """Prepare for a step, numbered from 1."""

    def choose(
        self,
        layer: int,
        span: tuple[int, int],
        inputs: Vectors,
        own: tuple[Offsets, Ids],
        wanted: int,
        chosen: Active,
    ) -> int:
        """Write ids and counts of some rows.

        Args:
            layer: 0 for the input layer.
            span: [start, stop) of the rows.
            inputs: (stop - start,) the layer's inputs of these rows.
            own: (n + 1,) offsets, and the neurons that a row has active in any case, which come
                first, ascending.
            wanted: how many to choose for a row, unless its own are more.
            chosen: written.

        Returns:
            Additions and comparisons.
        """

    def end(self, touched: list[Ids | None], inputs: list[Vectors]) -> Work:
        """Take note of the neurons of each layer that a step moved, and of what it was given."""


class HashChooser:
    """Chooses the neurons that hash tables name.

    Args:
        layers: the hashed ones, by their number.
        config: how they are hashed.
        seed: of what is random.
    """

    def __init__(self, layers: dict[int, HashedLayer], config: LshConfig, seed: int) -> None:
        self._layers = layers
        self._config = config
        self._seed = seed
        self._seeds = dict.fromkeys(layers, np.uint64(0))
        """Of what is random in a step, by layer."""
        self._step = 0

    def reload(self) -> None:
        """See `Chooser.reload`."""
        for layer in self._layers.values():
            layer.tables.build()

    def begin(self, step: int) -> Work:
        """See `Chooser.begin`."""
        self._step = step
        for layer in self._layers:
            self._seeds[layer] = np.uint64(derive_seed(self._seed, "ties", layer, step))
        layers = self._layers.values() if self._is_due(step) else ()
        return sum((layer.rebuild() for layer in layers), Work())

    def _is_due(self, step: int) -> bool:
        """Return whether all neurons are hashed anew: in the first two steps, then more rarely."""
        due, gap = 2, float(self._config.rebuild_steps)
        while due < step:
            due += int(gap)
            gap *= self._config.rebuild_growth
        return step in (1, due)

    def choose(
        self,
        layer: int,
        span: tuple[int, int],
        inputs: Vectors,
        own: tuple[Offsets, Ids],
        wanted: int,
        chosen: Active,
    ) -> int:
        """See `Chooser.choose`."""
        start, stop = span
        hashed = self._layers[layer]
        codes, additions = hashed.ask(inputs)
        tables = hashed.tables
        given = start, stop, codes, tables.starts, tables.sizes, tables.neurons
        how = chosen.width, wanted, *own, self._seeds[layer]
        return additions + pick(*given, *how, chosen.ids, chosen.counts)

    def end(self, touched: list[Ids | None], inputs: list[Vectors]) -> Work:
        """See `Chooser.end`."""
        work = Work()
        for number, layer in self._layers.items():
            found = touched[number]
            if self._is_due(self._step + 1):
                work += layer.centre_on(inputs[number])
            # Where most of them moved, to hash all at once now and then is cheaper.
            elif found is not None and FEW * len(found) <= layer.width:
                work += layer.move(found)
        return work
