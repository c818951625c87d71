"""The weights of a layer as vectors, one for each neuron, however they are stored."""

from __future__ import annotations

import numpy as np

from workers.kernels.numbers import Floats, Ids
from workers.lsh.layer import Vectors
from workers.lsh.vectors import mean_of


class RowNeurons:
    """Neurons whose weights stand side by side.

    Args:
        weight: (width, inputs).
        biases: (width,).
    """

    def __init__(self, weight: Floats, biases: Floats) -> None:
        self.width, self.inputs = weight.shape
        self.biases = biases
        self._weight = weight

    def vectors(self, which: Ids) -> Vectors:
        """See `Neurons`."""
        begins = which.astype(np.int64) * self.inputs
        counts = np.full(len(which), self.inputs, np.int32)
        return Vectors(begins, counts, np.empty(0, np.int32), self._weight.reshape(-1))

    def mean(self) -> Floats:
        """See `Neurons`."""
        out = np.empty(self.inputs, np.float32)
        mean_of(*self.vectors(np.arange(self.width, dtype=np.int32)), out)
        return out


class InputNeurons:
    """Neurons of the input layer, of which each feature has a row.

    Features that no row had so far say nothing of them: they are left out.

    Args:
        table: (inputs, width).
        biases: (width,).
        seen: (inputs,) above 0 where rows had the feature.
    """

    def __init__(self, table: Floats, biases: Floats, seen: Floats) -> None:
        self.inputs, self.width = table.shape
        self.biases = biases
        self._table = table
        self._seen = seen

    def vectors(self, which: Ids) -> Vectors:
        """See `Neurons`."""
        features = self._features()
        begins = np.arange(len(which), dtype=np.int64) * len(features)
        counts = np.full(len(which), len(features), np.int32)
        values = self._table[np.ix_(features, which)].T
        ids = np.tile(features, len(which))
        return Vectors(begins, counts, ids, np.ascontiguousarray(values).reshape(-1))

    def mean(self) -> Floats:
        """See `Neurons`."""
        out = np.zeros(self.inputs, np.float32)
        features = self._features()
        out[features] = self._table[features].mean(1)
        return out

    def _features(self) -> Ids:
        return np.flatnonzero(self._seen > 0).astype(np.int32)
