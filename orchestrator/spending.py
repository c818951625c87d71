"""What a run has spent, and whether it may begin more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from orchestrator.state import Attempt, WorldState


class Spending:
    """Counts the GPU-hours of a run's attempts against a cap.

    Args:
        cap: GPU-hours from which on no attempt begins; None: no cap.
        gpus: of each world; 0 on CPUs, where the hours of worlds are counted.
    """

    def __init__(self, cap: float | None = None, gpus: float = 0.0) -> None:
        self._cap = cap
        self._rate = gpus or 1.0

    def hours(self, states: Iterable[WorldState], now: datetime) -> float:
        """Return the GPU-hours of all attempts, those that run until `now`."""
        attempts = (item for state in states for item in state.attempts)
        return self._rate * sum(hours_of(item, now) for item in attempts)

    def refusal(self, states: Iterable[WorldState], now: datetime) -> str:
        """Return why no more attempts may begin; empty: they may."""
        if self._cap is None or (spent := self.hours(states, now)) < self._cap:
            return ""
        return (
            f"expected to spend less than budget.gpu_hours = {self._cap:g}, spent {spent:.2f}: no"
            " more worlds begin; raise it to go on, or merge the worlds that are done"
        )


def hours_of(attempt: Attempt, now: datetime | None = None) -> float:
    """Return the hours of an attempt; of one that runs, or whose end nobody wrote, until `now`.

    None of one that has no end, without `now`; nor of times that are none; nor of one that was
    never placed.
    """
    if attempt.node is None:
        return 0.0
    try:
        began = datetime.fromisoformat(attempt.started_at)
        ended = datetime.fromisoformat(attempt.ended_at) if attempt.ended_at else now
        seconds = (ended - began).total_seconds() if ended else 0.0
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, seconds) / 3600
