"""Tells attempts that hang from those that work."""

from __future__ import annotations

from collections.abc import Callable

_LONGEST_LOOK = 60.0
"""Seconds that one look may add to a silence: a driver that was itself held up (suspended, or
waiting for storage) heard nothing in that time, whatever was said."""


class Watchdog:
    """Counts for how long each attempt was silent.

    Args:
        timeout: seconds of silence after which an attempt hangs.
        clock: seconds, never set back.
    """

    def __init__(self, timeout: float, clock: Callable[[], float]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._silence: dict[int, float] = {}
        self._looked = clock()

    def heard(self, world: int) -> None:
        """Take note of a sign of life; the first begins the watch."""
        self._silence[world] = 0.0

    def forget(self, world: int) -> None:
        """End the watch over a world's attempt."""
        self._silence.pop(world, None)

    def look(self) -> list[int]:
        """Return the worlds whose attempts hang; call this often."""
        now = self._clock()
        passed = min(now - self._looked, _LONGEST_LOOK)
        self._looked = now
        for world in self._silence:
            self._silence[world] += passed
        return [world for world, seconds in self._silence.items() if seconds >= self._timeout]
