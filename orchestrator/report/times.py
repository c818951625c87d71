"""When attempts ran: the time line of a run, without the pauses in which nothing did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np

from orchestrator.report.curves import Floats, Told
from orchestrator.state import Attempt, WorldState, moment

RUNNING, CUT_OFF = "running", "cut off"
"""What stands in the place of a cause where an attempt has none: its driver is there, or gone."""
_SHORTEST_PAUSE = 60.0
_PAUSE_SHARE = 0.02
"""Pauses shorter than this share of the work stay in the time line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One attempt at a world, in time."""

    world: int
    attempt: Attempt
    cause: str
    """How it ended, in words."""
    began: float
    """Seconds on the time line."""
    ended: float
    counts: bool
    """Whether its weights are the world's."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All attempts at a run's worlds."""

    spans: tuple[Span, ...] = ()
    seconds: float = 0.0
    """Length of the time line: with at least one attempt at work, or in a short pause."""
    pauses: tuple[tuple[float, float], ...] = ()
    """Where on the time line pauses were cut out, and their seconds."""
    began: datetime | None = None
    ended: datetime | None = None
    """Of the last attempt; the time of the report where one runs."""
    undated: int = 0
    """Attempts without a time that can be read."""

    @property
    def work(self) -> float:
        """Seconds of all attempts together."""
        return sum(span.seconds for span in self.spans)


def timeline(
    states: Sequence[WorldState], told: Sequence[Told], *, now: datetime, driven: bool
) -> Timeline:
    """Return when the attempts at worlds ran.

    Args:
        states: of all worlds.
        told: what the attempts told: one whose driver vanished ended no earlier.
        now: when an attempt that runs is taken to end.
        driven: whether a driver is at work; else nothing runs.
    """
    last = {(one.world, one.attempt): one.seconds[-1] for one in told if len(one.seconds)}
    dated = []
    undated = 0
    for state in states:
        for attempt in state.attempts:
            if _waits(attempt) and (state.index, attempt.name) not in last:
                continue
            end = _end(attempt, now, driven, last.get((state.index, attempt.name), 0.0))
            if (began := _seconds(attempt.started_at)) is None or end is None:
                undated += 1
                continue
            dated.append((state, attempt, began, max(began, end)))
    if not dated:
        return Timeline(undated=undated)
    real, line, pauses = _without_pauses([(began, ended) for *_, began, ended in dated])
    spans = tuple(
        Span(
            world=state.index,
            attempt=attempt,
            cause=_cause(attempt, driven),
            began=float(np.interp(began, real, line)),
            ended=float(np.interp(ended, real, line)),
            counts=attempt.name == state.winner,
        )
        for state, attempt, began, ended in dated
    )
    return Timeline(
        spans=spans,
        seconds=line[-1],
        pauses=pauses,
        began=datetime.fromtimestamp(real[0], UTC),
        ended=datetime.fromtimestamp(real[-1], UTC),
        undated=undated,
    )


def throughput(when: Timeline, told: Sequence[Told], bins: int) -> tuple[Floats, Floats]:
    """Return the edges of `bins` parts of the time line, and the rows a second of all worlds there.

    Rows count as often as they were trained on, also those of steps that were lost.
    """
    edges = np.linspace(0, max(when.seconds, 1e-9), bins + 1)
    began = {(span.world, span.attempt.name): span.began for span in when.spans}
    rows = np.zeros(bins)
    for one in told:
        start = began.get((one.world, one.attempt))
        if start is None or not len(one.seconds):
            continue
        # Times that go back are none that a world told.
        seconds = np.maximum.accumulate(np.append(0.0, one.seconds))
        # Versions that told no rows told the rate of all the time between.
        made = np.where(np.isnan(one.rows), np.diff(seconds) * one.rates, one.rows)
        total = np.append(0.0, np.cumsum(made))
        rows += np.diff(np.interp(edges, start + seconds, total))
    return edges, rows / (edges[1] - edges[0])


def rates(told: Sequence[Told]) -> Mapping[int, float]:
    """Return each world's rows a second, the median of what it told."""
    found: dict[int, list[Floats]] = {}
    for one in told:
        if len(one.rates):
            found.setdefault(one.world, []).append(one.rates)
    return {world: float(np.median(np.concatenate(parts))) for world, parts in found.items()}


def _without_pauses(
    dated: Sequence[tuple[float, float]],
) -> tuple[list[float], list[float], tuple[tuple[float, float], ...]]:
    """Return moments, their places on a line without long pauses, and those pauses."""
    busy = _joined(dated)
    work = sum(ended - began for began, ended in busy)
    shortest = max(_SHORTEST_PAUSE, _PAUSE_SHARE * work)
    real, line, pauses = [busy[0][0]], [0.0], []
    for (_, ended), (began, _) in pairwise(busy):
        if began - ended >= shortest:
            place = line[-1] + ended - real[-1]
            pauses.append((place, began - ended))
            real += [ended, began]
            line += [place, place]
    real.append(busy[-1][1])
    line.append(line[-1] + real[-1] - real[-2])
    return real, line, tuple(pauses)


def _joined(dated: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for began, ended in sorted(dated):
        if joined and began <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], ended)
        else:
            joined.append((began, ended))
    return joined


def _waits(attempt: Attempt) -> bool:
    """Return whether an attempt got no place yet, or none that was kept."""
    return attempt.cause is None and attempt.node is None


def _end(attempt: Attempt, now: datetime, driven: bool, told: float) -> float | None:
    if attempt.ended_at is not None:
        return _seconds(attempt.ended_at)
    if driven:
        return now.timestamp()
    began = _seconds(attempt.started_at)
    return None if began is None else began + told


def _cause(attempt: Attempt, driven: bool) -> str:
    if attempt.cause is None:
        return RUNNING if driven else CUT_OFF
    return attempt.cause.replace("_", " ")


def _seconds(text: str) -> float | None:
    """Return a time in seconds since 1970; None for what is none."""
    return found.timestamp() if (found := moment(text)) else None
