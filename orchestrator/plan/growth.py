"""What more worlds would bring a run that has some: its curve over R, continued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.evaluations import KeptEvaluation
from orchestrator.spending import hours_of
from orchestrator.state import WorldState


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A metric by the number of worlds, and what doubling them would bring."""

    combiner: str
    metric: str
    """Such as `P@1`."""
    curve: Mapping[int, float]
    """By number of worlds; shares of 1."""
    doubled: float | None
    """What twice the worlds of the last point would have; None: the curve is too short to tell."""


def gains(found: KeptEvaluation) -> list[Gain]:
    """Return the curves of an evaluation, each with its continuation.

    The first metric of each kind and the recalls are continued: precision at one k and recall at
    every k tell what there is to tell.
    """
    combiners = dict.fromkeys(combiner for combiner, _ in found.metrics)
    return [
        Gain(combiner=combiner, metric=metric, curve=curve, doubled=_doubled(curve))
        for combiner in combiners
        for metric in _told(found, combiner)
        for curve in [_curve(found, combiner, metric)]
    ]


def _told(found: KeptEvaluation, combiner: str) -> list[str]:
    names = next(metrics for (name, _), metrics in found.metrics.items() if name == combiner)
    kinds = [name for name in names if name.startswith("P@")][:1]
    return kinds + [name for name in names if name.startswith("R@") and name != "R@1"]


def _curve(found: KeptEvaluation, combiner: str, metric: str) -> dict[int, float]:
    points = {
        worlds: metrics[metric]
        for (name, worlds), metrics in found.metrics.items()
        if name == combiner and metric in metrics
    }
    return dict(sorted(points.items()))


def _doubled(curve: Mapping[int, float]) -> float | None:
    """Return the metric at twice the worlds of the last point.

    The gain of a doubling falls from one to the next: by the ratio of the last two, and never
    rises. Without three points that are doublings of each other there is nothing to go by.
    """
    last = max(curve, default=0)
    points = [curve.get(last // 4), curve.get(last // 2), curve.get(last)]
    if last % 4 or any(point is None for point in points):
        return None
    first, middle, end = (float(point or 0.0) for point in points)
    before, now = middle - first, end - middle
    if before <= 0 or now <= 0:
        return end
    return min(1.0, end + now * min(1.0, now / before))


def world_hours(states: Iterable[WorldState]) -> float | None:
    """Return the mean hours of all attempts at a world, over the worlds that are done.

    None: there are none.
    """
    spent = [
        sum(hours_of(item) for item in state.attempts) for state in states if state.status == "done"
    ]
    return sum(spent) / len(spent) if spent else None
