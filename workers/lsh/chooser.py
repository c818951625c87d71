"""Active neurons by hash tables."""

from __future__ import annotations

import numpy as np

from workers.hashing import derive_seed
from workers.kernels.numbers import Ids, Offsets
from workers.lsh.config import LshConfig
from workers.lsh.layer import HashedLayer, Vectors
from workers.lsh.picking import pick
from workers.lsh.steps import Active

FEW = 8
"""Neurons of a layer for one that a step moved, from which on those are hashed anew at once."""


class HashChooser:
    """Chooses the neurons that hash tables name, and some at random.

    Args:
        layers: the hashed ones, by their number.
        config: how they are hashed.
        seed: of what is drawn.
    """

    def __init__(self, layers: dict[int, HashedLayer], config: LshConfig, seed: int) -> None:
        self._layers = layers
        self._config = config
        self._seed = seed
        self._seeds = dict.fromkeys(layers, np.uint64(0))
        """Of what is drawn in a step, by layer."""

    def reload(self) -> None:
        """See `Chooser.reload`."""
        for layer in self._layers.values():
            layer.tables.build()

    def begin(self, step: int) -> int:
        """See `Chooser.begin`."""
        for layer in self._layers:
            self._seeds[layer] = np.uint64(derive_seed(self._seed, "drawn", layer, step))
        return sum(layer.rebuild() for layer in self._layers.values()) if self._is_due(step) else 0

    def _is_due(self, step: int) -> bool:
        """Return whether all neurons are hashed anew: in the first step, and ever more rarely."""
        due, gap = 1, float(self._config.rebuild_steps)
        while due < step:
            due += int(gap)
            gap *= self._config.rebuild_growth
        return due == step

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
        # At least one is drawn where any is, for it stands for all others.
        named = wanted - int(np.ceil(self._config.drawn * wanted))
        given = start, stop, codes, tables.starts, tables.sizes, tables.neurons
        how = chosen.width, named, wanted, *own, self._seeds[layer]
        return additions + pick(*given, *how, chosen.ids, chosen.counts, chosen.odds)

    def end(self, touched: list[Ids | None]) -> int:
        """See `Chooser.end`."""
        additions = 0
        for number, layer in self._layers.items():
            found = touched[number]
            # Where most of them moved, to hash all at once now and then is cheaper.
            if found is not None and FEW * len(found) <= layer.width:
                additions += layer.move(found)
        return additions
