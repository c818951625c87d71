"""Observers in threads of their own, so that none of them holds up or harms a run."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orchestrator.executors.base import explain
from orchestrator.observers.base import Observer

if TYPE_CHECKING:
    from orchestrator.config import RunConfig
    from orchestrator.driving import RunSummary
    from orchestrator.views import WorldView

GRACE = 20.0
"""Seconds that all observers together have at the end, to take in what they were not told yet."""
CATCH_UP = 5.0
"""Seconds that they have, before that, to take in the last changes."""
BEHIND = 1000
"""Changes that an observer may be behind; from then on it misses the oldest."""

Warn = Callable[[str], None]


def warn(message: str) -> None:
    """Tell a user about trouble with an observer."""
    print(f"manyworlds: {message}", file=sys.stderr, flush=True)


class Watchers:
    """All observers of a run.

    Args:
        observers: to tell.
        warn: gets one message about each that raised or did not end.
        grace: seconds that they have at the end.
    """

    def __init__(
        self, observers: Sequence[Observer], *, warn: Warn = warn, grace: float = GRACE
    ) -> None:
        self._besides = [_Beside(observer, warn) for observer in observers]
        self._warn = warn
        self._grace = grace
        self._seen: Sequence[WorldView] = ()
        self._begun = False

    @property
    def seen(self) -> Sequence[WorldView]:
        """The worlds as they were told last."""
        return self._seen

    def add(self, observer: Observer) -> None:
        """Tell one more, from the beginning; before `begin`."""
        self._besides.append(_Beside(observer, self._warn))

    def begin(self, run: RunConfig) -> None:
        """Tell all that a run begins."""
        self._begun = True
        for beside in self._besides:
            beside.start()
            beside.tell(lambda observer: observer.begin(run))

    def saw(self, views: Sequence[WorldView]) -> None:
        """Tell all how the worlds are."""
        self._seen = views
        for beside in self._besides:
            beside.tell(lambda observer: observer.saw(views))

    def catch_up(self) -> None:
        """Return when all have taken in what they were told, or have had time enough."""
        waiting = [beside.marker() for beside in self._besides if self._begun]
        until = time.monotonic() + min(CATCH_UP, self._grace)
        for reached in waiting:
            reached.wait(max(0.0, until - time.monotonic()))

    def end(self, summary: RunSummary) -> None:
        """Tell all how the run was left; return when they took it in or had time enough."""
        if not self._begun:
            return
        for beside in self._besides:
            beside.tell(lambda observer: observer.end(summary))
            beside.close()
        until = time.monotonic() + self._grace
        for beside in self._besides:
            beside.join(max(0.0, until - time.monotonic()))


class _Beside:
    """One observer and its thread."""

    def __init__(self, observer: Observer, warn: Warn) -> None:
        self._observer: Observer | None = observer
        self._name = type(observer).__name__
        self._warn = warn
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(BEHIND)
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, call: Callable[[Observer], None]) -> None:
        self._put(lambda: self._call(call))

    def marker(self) -> threading.Event:
        """Return what is set once all was taken in that was told before."""
        reached = threading.Event()
        self._put(reached.set)
        return reached

    def close(self) -> None:
        self._put(None)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn(f"observer {self._name} takes too long to end, and is left behind")

    def _put(self, call: Callable[[], None] | None) -> None:
        # Only this thread puts: there is room once the oldest is gone.
        if self._calls.full():
            with contextlib.suppress(queue.Empty):
                self._calls.get_nowait()
        self._calls.put(call)

    def _work(self) -> None:
        while call := self._calls.get():
            call()

    def _call(self, call: Callable[[Observer], None]) -> None:
        if self._observer is None:
            return
        try:
            call(self._observer)
        except Exception as error:
            self._observer = None
            self._warn(f"observer {self._name} is told no more, it failed: {explain(error)}")
