"""What hash tables are compared with: other ways to choose the neurons that a row computes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from workers.kernels.numbers import Ids, Offsets
from workers.kernels.steps import Tensors
from workers.lsh.active import Active
from workers.lsh.chooser import Chooser
from workers.lsh.layer import Vectors, Work

_OWN = 1e9
"""A score that none has but a row's own neurons."""


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
        start, stop = span
        rng = np.random.default_rng((self._seed, self._step, layer, start))
        scores = self.scores(layer, inputs, chosen.width, rng).astype(np.float64)
        offsets, labels = own[0][start : stop + 1], own[1][own[0][start] : own[0][stop]]
        # Own neurons first, ascending.
        owners = np.repeat(np.arange(stop - start), np.diff(offsets))
        scores[owners, labels] = _OWN + chosen.width - labels
        counts = self.counts(wanted, chosen.width, stop - start, rng)
        counts = np.maximum(counts, (scores >= _OWN).sum(1))
        most = int(counts.max())
        best = np.argpartition(-scores, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
        chosen.ids[start:stop, :most] = np.take_along_axis(best, order, 1)
        chosen.counts[start:stop] = counts
        return 0

    @abstractmethod
    def scores(
        self, layer: int, inputs: Vectors, width: int, rng: np.random.Generator
    ) -> NDArray[np.floating]:
        """Return what the neurons of some rows are chosen by, (rows, width)."""

    def counts(self, wanted: int, width: int, rows: int, rng: np.random.Generator) -> Offsets:
        """Return how many neurons of each row are active."""
        return np.full(rows, wanted)


class AtRandom(Compared):
    """Chooses as many neurons at random."""

    def scores(
        self, layer: int, inputs: Vectors, width: int, rng: np.random.Generator
    ) -> NDArray[np.floating]:
        """See `Compared.scores`."""
        return rng.random((len(inputs.counts), width), dtype=np.float32)


class Dropout(AtRandom):
    """Leaves each neuron out by itself (Srivastava et al., JMLR 2014).

    Args:
        seed: of what is drawn.
        share: of the neurons that stay on average; `wanted` is the most that there is room for.
    """

    def __init__(self, seed: int, share: float) -> None:
        super().__init__(seed)
        self._share = share

    def counts(self, wanted: int, width: int, rows: int, rng: np.random.Generator) -> Offsets:
        """See `Compared.counts`."""
        return np.clip(rng.binomial(width, self._share, rows), 1, wanted)


class Winners(Compared):
    """Chooses those that really are the highest: all of them are computed for it.

    Args:
        parameters: of the network.
    """

    def __init__(self, parameters: Tensors) -> None:
        super().__init__(0)
        self._parameters = parameters

    def scores(
        self, layer: int, inputs: Vectors, width: int, rng: np.random.Generator
    ) -> NDArray[np.floating]:
        """See `Compared.scores`."""
        rows, ends = np.arange(len(inputs.counts)), np.cumsum(inputs.counts)
        owners = np.repeat(rows, inputs.counts)
        places = np.arange(len(owners)) + np.repeat(
            inputs.begins - ends + inputs.counts, inputs.counts
        )
        ids, values = inputs.ids[places], torch.from_numpy(inputs.values[places])
        if layer == 0:
            sums = functional.embedding_bag(
                torch.from_numpy(ids).long(),
                self._parameters["input.weight"],
                torch.from_numpy(ends - inputs.counts),
                mode="sum",
                per_sample_weights=values,
            )
            return (sums + self._parameters["input.bias"]).numpy()
        name = f"layer.{layer - 1}"
        weight = self._parameters[f"{name}.weight"]
        x = torch.zeros(len(rows), weight.shape[1])
        x[owners, ids] = values
        return (x @ weight.T + self._parameters[f"{name}.bias"]).numpy()


CHOOSERS = ("hashing", "random", "winners", "dropout")
"""`hashing` is the project's own; the others are here."""
