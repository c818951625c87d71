"""How often a world is tried again, and after how long."""

from __future__ import annotations

import random
from collections import Counter

from orchestrator.config import RetryConfig
from orchestrator.state import Cause, WorldState


def _ends(state: WorldState) -> Counter[Cause | None]:
    """Count the causes of ends in a row without a new checkpoint in between."""
    counts: Counter[Cause | None] = Counter()
    furthest = 0
    for number, attempt in enumerate(state.attempts):
        if attempt.steps > furthest:
            counts.clear()
            furthest = attempt.steps
        if number >= state.forgiven and attempt.cause != "stopped":
            counts[attempt.cause] += 1
    return counts


def spent(state: WorldState, retry: RetryConfig) -> bool:
    """Return whether a world had all the attempts that its last end leaves it."""
    ends = _ends(state)
    preemptions = float("inf") if retry.preemption is None else retry.preemption
    return (
        ends["data"] > 0
        or ends["error"] + ends["hung"] >= retry.error
        or ends["out_of_memory"] >= retry.out_of_memory
        or ends["preemption"] >= preemptions
    )


def pause(state: WorldState, retry: RetryConfig, seed: int) -> float:
    """Return the seconds before the next attempt at a world.

    They double with each end in a row, up to a cap; jitter keeps worlds from coming back at once.
    """
    doublings = min(max(_ends(state).total() - 1, 0), 30)
    longest: float = min(retry.backoff_cap_seconds, retry.backoff_seconds * 2**doublings)
    return longest * random.Random(seed).uniform(0.5, 1.0)
