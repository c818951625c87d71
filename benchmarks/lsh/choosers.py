"""What hash tables are compared with: other ways to choose the neurons that a row computes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from workers.kernels.numbers import Ids, Offsets
from workers.kernels.steps import Tensors
from workers.lsh.active import Active
from workers.lsh.layer import Vectors, Work
from workers.lsh.steps import Chooser

Scores = NDArray[np.float32]


class Compared(Chooser, ABC):
    """A choice by scores: those neurons are active that have the highest, and a row's own."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._step = 0

    def reload(self) -> None:
        """See `Chooser.reload`."""

    def begin(self, step: int) -> Work:
        """See `Chooser.begin`."""
        self._step = step
        return Work()

    def end(self, touched: list[Ids | None], inputs: list[Vectors]) -> Work:
        """See `Chooser.end`."""
        return Work()

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
        scores = self.scores(layer, span, inputs, chosen.width)
        for row, mine in zip(range(*span), scores, strict=True):
            labels = np.unique(own[1][own[0][row] : own[0][row + 1]])
            mine[labels] = -np.inf
            count = self.count(wanted, chosen.width, (self._seed, self._step, layer, row))
            others = max(0, count - len(labels))
            best = np.argpartition(-mine, others)[:others]
            ids = np.concatenate([labels, best])
            chosen.ids[row, : len(ids)], chosen.counts[row] = ids, len(ids)
        return 0

    @abstractmethod
    def scores(self, layer: int, span: tuple[int, int], inputs: Vectors, width: int) -> Scores:
        """Return what the neurons of some rows are chosen by, (rows, width)."""

    def count(self, wanted: int, width: int, seed: tuple[int, ...]) -> int:
        """Return how many neurons of a row are active."""
        return wanted


class AtRandom(Compared):
    """Chooses as many neurons at random."""

    def scores(self, layer: int, span: tuple[int, int], inputs: Vectors, width: int) -> Scores:
        """See `Compared.scores`."""
        rng = np.random.default_rng((self._seed, self._step, layer, span[0]))
        return rng.random((span[1] - span[0], width), dtype=np.float32)


class Dropout(AtRandom):
    """Leaves each neuron out by itself (Srivastava et al., JMLR 2014).

    Args:
        seed: of what is drawn.
        share: of the neurons that stay on average; `wanted` is the most that there is room for.
    """

    def __init__(self, seed: int, share: float) -> None:
        super().__init__(seed)
        self._share = share

    def count(self, wanted: int, width: int, seed: tuple[int, ...]) -> int:
        """See `Compared.count`."""
        drawn = int(np.random.default_rng(seed).binomial(width, self._share))
        return min(max(1, drawn), wanted)


class Winners(Compared):
    """Chooses those that really are the highest: all of them are computed for it.

    Args:
        parameters: of the network.
    """

    def __init__(self, parameters: Tensors) -> None:
        super().__init__(0)
        self._parameters = parameters

    def scores(self, layer: int, span: tuple[int, int], inputs: Vectors, width: int) -> Scores:
        """See `Compared.scores`."""
        weight, bias = self._of(layer)
        found = np.empty((len(inputs.counts), width), np.float32)
        for row, (begin, count) in enumerate(zip(inputs.begins, inputs.counts, strict=True)):
            values = torch.from_numpy(inputs.values[begin : begin + count])
            mine = weight
            if count < weight.shape[1]:
                mine = weight[:, torch.from_numpy(inputs.ids[begin : begin + count]).long()]
            found[row] = (mine @ values + bias).numpy()
        return found

    def _of(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        if layer == 0:
            return self._parameters["input.weight"].T, self._parameters["input.bias"]
        name = f"layer.{layer - 1}"
        return self._parameters[f"{name}.weight"], self._parameters[f"{name}.bias"]


CHOOSERS = ("hashing", "random", "winners", "dropout")
"""`hashing` is the project's own; the others are here."""
