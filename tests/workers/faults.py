"""Which requests get a fault, and a clock that only sleeping moves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from tests.workers.object_store import Fault, Judge, Request, error
from workers.storage import Retries

SLOW_DOWN = error(503, "SlowDown")
DENIED = error(403, "AccessDenied")
BAD_GATEWAY = error(502, "")


class FakeTime:
    """A clock that only sleeping moves, and what happens on the way."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []
        self.events: list[tuple[float, Callable[[], None]]] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()

    def retries(self, **settings: Any) -> Retries:
        return Retries(clock=lambda: self.now, sleep=self.sleep, random=lambda: 0.5, **settings)


def first(times: int, fault: Fault, of: Callable[[Request], bool] = lambda request: True) -> Judge:
    """Return what gives the first requests of a kind a fault."""
    numbers = count()
    return lambda request: fault if of(request) and next(numbers) < times else None


def always(fault: Fault, of: Callable[[Request], bool] = lambda request: True) -> Judge:
    return lambda request: fault if of(request) else None


def from_number(number: int, fault: Fault) -> Judge:
    numbers = count()
    return lambda request: fault if next(numbers) >= number else None
