"""What it takes to rule classes out, for one query: its bounds, and its scores in steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.combiners import Combiner, Reduction
from orchestrator.ensemble.scan import GROUP, MEDIAN, MIN, SUM, Steps, count_steps
from workers.errors import DataError

Floats = NDArray[np.float32]
Exact = NDArray[np.float64]
Ids = NDArray[np.int64]

MODES: dict[Reduction, int] = {"sum": SUM, "min": MIN, "median": MEDIAN}
ALLOWED = 1024
"""Steps by which a class of the k best may be below the best of all worlds."""
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one query's scores in R worlds can add up to."""

    tops: Exact
    """(R,) the best score of each world."""
    bottoms: Exact
    """(R,) the worst."""
    slack: float
    """What float32 may have rounded: a sum of R numbers is off by less than R halves of a last
    place of the largest sum that there can be."""
    deficits: Exact
    """(R,) how far the scores of each world are below its best, on average."""

    @staticmethod
    def of(scores: Floats) -> Bounds:
        """Return the bounds of one query's scores (R, B).

        Raises:
            DataError: if a score is not finite: there is no order among those.
        """
        tops, bottoms = scores.max(axis=1).astype(float), scores.min(axis=1).astype(float)
        for world in np.flatnonzero(~np.isfinite(tops - bottoms)):
            raise DataError(
                f"scores: expected finite numbers, found {bottoms[world]} to {tops[world]} from"
                f" world {world}; its weights may be damaged: load the ensemble with verify=full"
            )
        slack = len(scores) * 2.0**-23 * float(np.maximum(tops, -bottoms).sum())
        return Bounds(tops, bottoms, slack, tops - scores.mean(axis=1, dtype=np.float64))


class Sieve:
    """What is needed to say of a class that it cannot reach a query's bar.

    For a sum that is the distance of the bar from the sum of the worlds' best scores, loosened by
    what float32 may have rounded (`Bounds.slack`). For a minimum or median it is a number of worlds
    whose scores do not reach the bar: none, or ⌊R/2⌋, since the higher of the two middle scores
    must reach it.

    Args:
        scores: (R, B) float32 of one query.
        bounds: of these.
        combiner: whose reduction is meant.
        bar: finite; a reduced score that the classes looked for reach.
    """

    def __init__(self, scores: Floats, bounds: Bounds, combiner: Combiner, bar: float) -> None:
        worlds = len(scores)
        self.steps: Steps = np.empty(scores.shape, np.uint8)
        """(R, B)."""
        self._mode = MODES[combiner.reduction]
        if self._mode == SUM:
            self._highest = float(bounds.tops.sum()) + bounds.slack
            self._width = max(self._highest - bar, _TINY) / ALLOWED
            for world, top in enumerate(bounds.tops):
                count_steps(scores[world], top, self._width, self.steps[world])
            unlike = bounds.deficits
        else:
            self._most = worlds // 2 if self._mode == MEDIAN else 0
            np.less(scores, np.float32(bar), out=self.steps.view(bool))
            unlike = self.steps.sum(axis=1, dtype=np.int64)
        groups = unlike[: len(scores) // GROUP * GROUP].reshape(-1, GROUP).sum(axis=1)
        self.order: Ids = np.argsort(-groups, kind="stable")
        """(⌊R/4⌋,) groups of consecutive worlds; those come first that rule most classes out."""

    def limit(self, bar: float) -> int:
        """Return the most steps that a class which reaches a bar can have: this one or a later."""
        if self._mode != SUM:
            return self._most
        return int((self._highest - bar) / self._width + 1)
