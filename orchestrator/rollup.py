"""What many worlds come to together: how far, how fast, how long still, and which ones to look at.

Pure sums over `WorldView`s, of a driver's or of those that storage has.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, median

from orchestrator.views import WorldView
from orchestrator.words import plural

STATES = ("running", "failed", "waiting", "pending", "done")
"""The ones that tell most first."""
MANY = 10
"""Running worlds from which on the slowest of them are told."""
_SLOWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Least, median and most of a few numbers."""

    least: float
    median: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What some worlds come to together."""

    counts: dict[str, int]
    """Worlds by state, in the order of `STATES`."""
    share: float
    """Of all their steps that are made, from 0 to 1."""
    rows_per_second: float
    """Of those that run."""
    loss: Spread | None
    bucket_accuracy: Spread | None
    seconds_left: float | None
    """Until the last one is done, as far as the present rates tell; None: they do not."""

    @property
    def worlds(self) -> int:
        """How many there are."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one machine does."""

    node: str
    device: str
    running: int
    done: int
    rows_per_second: float


def totals(views: Sequence[WorldView]) -> Totals:
    """Return what `views` come to together."""
    counts = Counter(view.state for view in views)
    rates = [view.rows_per_second or 0.0 for view in _running(views)]
    return Totals(
        counts={state: counts[state] for state in sorted(counts, key=rank)},
        share=fmean(_share(view) for view in views) if views else 0.0,
        rows_per_second=sum(rates),
        loss=_spread(view.loss for view in views),
        bucket_accuracy=_spread(view.bucket_accuracy for view in views),
        seconds_left=_seconds_left(views),
    )


def by_state(views: Sequence[WorldView]) -> list[Totals]:
    """Return what the worlds of each state come to, the ones that tell most first."""
    ordered = sorted(views, key=lambda view: rank(view.state))
    return [totals(list(group)) for _, group in groupby(ordered, key=lambda view: view.state)]


def by_node(views: Sequence[WorldView]) -> list[Place]:
    """Return what each machine does that runs worlds, or ran some; the slowest first."""
    ordered = sorted((view for view in views if view.node), key=lambda view: view.node)
    grouped = groupby(ordered, key=lambda view: view.node)
    places = [_place(node, list(group)) for node, group in grouped]
    return sorted(places, key=_pace)


def to_look_at(views: Sequence[WorldView]) -> list[tuple[WorldView, str]]:
    """Return the worlds that need attention, worst first, each with what there is to say of it.

    Those that failed, wait for what is missing, are in trouble, were tried again, or leave rows
    out; and of `MANY` running ones the slowest.
    """
    found: dict[int, tuple[WorldView, str]] = {}
    for kind in (_has_failed, _lacks, _is_in_trouble, _is_tried_again, _leaves_out):
        chosen = [view for view in views if view.world not in found and kind(view)]
        found |= {view.world: (view, remark(view)) for view in chosen}
    slowest = [(view, words) for view, words in _slowest(views) if view.world not in found]
    return [*found.values(), *slowest]


def remark(view: WorldView) -> str:
    """Return the trouble that a world is in, or how its last attempt ended, and what it lacks."""
    in_trouble = view.trouble and view.state == "running"
    left_out = f"{plural(view.left_out_rows, 'row')} left out" if view.left_out_rows else ""
    # A stop that was asked for says nothing of a world that goes on.
    over = view.cause == "stopped" and view.state in ("running", "waiting")
    remarks = [view.trouble if in_trouble else "" if over else view.cause, left_out]
    return "; ".join(words for words in remarks if words)


def rank(state: str) -> int:
    """Return where a state stands in `STATES`."""
    return STATES.index(state) if state in STATES else len(STATES)


def _running(views: Sequence[WorldView]) -> list[WorldView]:
    return [view for view in views if view.state == "running"]


def _share(view: WorldView) -> float:
    if view.state == "done":
        return 1.0
    return min(1.0, view.step / view.steps) if view.step and view.steps else 0.0


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(least=min(known), median=median(known), most=max(known)) if known else None


def _place(node: str, views: Sequence[WorldView]) -> Place:
    devices = [view.device for view in views if view.device]
    running = _running(views)
    return Place(
        node=node,
        device=devices[-1] if devices else "",
        running=len(running),
        done=sum(view.state == "done" for view in views),
        rows_per_second=sum(view.rows_per_second or 0.0 for view in running),
    )


def _pace(place: Place) -> tuple[bool, float, str]:
    # Machines without a world come last.
    return not place.running, place.rows_per_second / max(1, place.running), place.node


def _seconds_left(views: Sequence[WorldView]) -> float | None:
    """Return when the last world ends if each that ends makes room for one that is pending."""
    known = {v.world: v.seconds_left for v in _running(views) if v.seconds_left is not None}
    if not known:
        return None
    # What a whole world takes, at the pace of those that run.
    whole = [known[v.world] / (1 - _share(v)) for v in views if v.world in known and _share(v) < 1]
    usual = fmean(whole) if whole else 0.0
    # Worlds that wait were given room already.
    begun = [view for view in views if view.state in ("running", "waiting")]
    free = [known.get(view.world, usual * (1 - _share(view))) for view in begun]
    heapq.heapify(free)
    queue = [usual * (1 - _share(view)) for view in views if view.state == "pending"]
    for seconds in sorted(queue, reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def _has_failed(view: WorldView) -> bool:
    return view.state == "failed"


def _lacks(view: WorldView) -> bool:
    return view.state == "waiting" and bool(view.cause)


def _is_in_trouble(view: WorldView) -> bool:
    return view.state == "running" and bool(view.trouble)


def _is_tried_again(view: WorldView) -> bool:
    # After a stop that was asked for there is nothing to look at.
    return view.state != "done" and view.ends > 0 and view.ended not in ("", "stopped")


def _leaves_out(view: WorldView) -> bool:
    return view.left_out_rows > 0


def _slowest(views: Sequence[WorldView]) -> list[tuple[WorldView, str]]:
    timed = [(view.rows_per_second, view) for view in _running(views) if view.rows_per_second]
    if len(timed) < MANY:
        return []
    usual = median(rate for rate, _ in timed)
    timed.sort(key=lambda pair: pair[0])
    return [
        (view, f"among the slowest: {rate / usual:.0%} of the usual rows/s")
        for rate, view in timed[:_SLOWEST]
    ]
