"""Where attempts may run, and for how long they wait for a place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

_DEATHS = 2
"""Attempts that may die at a place before it is avoided: one may have been the world's fault."""


class Placement:
    """Remembers which places killed attempts, and since when attempts wait.

    Args:
        timeout: seconds of waiting after which something has to be said.
        clock: seconds, never set back.
    """

    def __init__(self, timeout: float, clock: Callable[[], float]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._deaths: Counter[str] = Counter()
        self._waiting: dict[int, float] = {}
        self._nothing_since: float | None = None

    @property
    def bad(self) -> frozenset[str]:
        """The places to avoid."""
        return frozenset(place for place, deaths in self._deaths.items() if deaths >= _DEATHS)

    def died(self, place: str | None) -> None:
        """Take note that an attempt died at a place of what may be the place's fault."""
        if place is not None:
            self._deaths[place] += 1

    def asked(self, world: int) -> None:
        """Take note that a world waits for a place from now on."""
        self._waiting[world] = self._clock()

    def settled(self, world: int) -> None:
        """Take note that a world waits no more."""
        self._waiting.pop(world, None)

    def overdue(self) -> list[int]:
        """Return the worlds that have waited for a place for too long."""
        now = self._clock()
        return [world for world, since in self._waiting.items() if now - since >= self._timeout]

    def is_hopeless(self, placed: Collection[int]) -> bool:
        """Return whether worlds wait and none was at a place for too long; call this often.

        Args:
            placed: the worlds that are at a place.
        """
        if placed or not self._waiting:
            self._nothing_since = None
            return False
        if self._nothing_since is None:
            self._nothing_since = self._clock()
        return self._clock() - self._nothing_since >= self._timeout
