"""How the worlds' bucket probabilities become one score for each class.

A combiner is three steps: a transform of every world's bucket probabilities
(before the lookup, so over B values a world and not over K), a reduction over
the worlds of the values in a class's buckets, and a finish that turns the
reduced value into the reported score. The finish never reverses an order, so
retrieval compares reduced values and finishes only what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers.errors import ConfigError

Floats = NDArray[np.float32]
Reduction = Literal["sum", "min", "median"]

EPSILON = np.float32(1e-6)
"""What `log` adds to a probability: a world that rules a class out takes off at most log(EPSILON),
so that one mistaken world costs a class much but not everything."""


@dataclass(frozen=True, slots=True)
class Combiner:
    """One way to combine worlds; get it by name from `combiner`."""

    name: str
    """`mean`, `log`, `min` or `median`."""
    reduction: Reduction
    """Over worlds, in the order of their numbers, in float32."""

    def transform(self, probabilities: Floats) -> Floats:
        """Return what is looked up: for `log`, log(p + EPSILON); for the others p itself.

        Args:
            probabilities: float32 of any shape.
        """
        if self.name != "log":
            return probabilities
        values: Floats = probabilities + EPSILON
        np.log(values, out=values)
        return values

    def reduce(self, values: Floats) -> Floats:
        """Return the reduction of `values` (R, ...) over the worlds: the plain definition.

        The median of an even number of worlds is the mean of the two middle values.
        """
        total: Floats
        if self.reduction == "min":
            total = values.min(axis=0)
        elif self.reduction == "median":
            ordered = np.sort(values, axis=0)
            middle = len(values) // 2
            total = (ordered[middle] + ordered[-1 - middle]) * np.float32(0.5)
        else:
            total = values[0].copy()
            for value in values[1:]:
                total += value
        return total

    def finish(self, reduced: Floats, worlds: int, chance: float) -> Floats:
        """Return the scores of classes from their reduced values.

        `mean` gives the unbiased estimate (mean p - q) / (1 - q) of the class's
        probability (Medini et al., NeurIPS 2019, section 3, with q for 1/B); `log` gives
        mean log(p + EPSILON); `min` and `median` give the reduced value.

        Args:
            reduced: float32 of any shape; -inf stays -inf.
            worlds: R.
            chance: q, that two classes share a bucket (`Partition.collision_chance`).
        """
        if self.reduction != "sum":
            return reduced
        scores: Floats = reduced / np.float32(worlds)
        if self.name == "mean":
            scores = (scores - np.float32(chance)) / np.float32(1.0 - chance)
        return scores

    def combine(self, probabilities: Floats, chance: float) -> Floats:
        """Return the scores (n, K) of classes whose buckets have `probabilities` (R, n, K)."""
        reduced = self.reduce(self.transform(probabilities))
        return self.finish(reduced, len(probabilities), chance)


COMBINERS = {
    combiner.name: combiner
    for combiner in (
        Combiner("mean", "sum"),
        Combiner("log", "sum"),
        Combiner("min", "min"),
        Combiner("median", "median"),
    )
}


def combiner(name: str) -> Combiner:
    """Return the combiner of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in COMBINERS:
        raise ConfigError(f"combiner: expected one of {', '.join(COMBINERS)}, found {name}")
    return COMBINERS[name]
