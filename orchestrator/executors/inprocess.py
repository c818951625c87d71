"""Attempts in threads of this process: for tests, debugging, and machines without Ray."""

from __future__ import annotations

import platform
import queue
import threading
from collections.abc import Sequence
from functools import partial

from orchestrator.executors.base import (
    AttemptFunction,
    Ended,
    Event,
    Progress,
    Started,
    outcome_of,
)
from workers.config import WorldConfig


class InProcessExecutor:
    """Runs attempts one after the other, or a few side by side, in this process.

    Args:
        run_uri: the run's folder or URI.
        config: of each world.
        attempt: the function that trains; None: `workers.attempt.run_attempt`.
        parallel: attempts at the same time.
    """

    def __init__(
        self,
        run_uri: str,
        config: WorldConfig,
        *,
        attempt: AttemptFunction | None = None,
        parallel: int = 1,
    ) -> None:
        self._run_uri = run_uri
        self._config = config
        self._function = attempt or _default_attempt()
        self._parallel = parallel
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ahead: list[Event] = []
        self._room = threading.Semaphore(parallel)
        self._running: dict[int, tuple[threading.Thread, threading.Event]] = {}

    def slots(self) -> int:
        """Return the number of attempts that run at the same time."""
        return self._parallel

    def start(self, world: int, attempt: str) -> None:
        """Begin an attempt in a thread of its own."""
        stop = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(world, attempt, stop), name=f"world {world}", daemon=True
        )
        self._running[world] = thread, stop
        thread.start()

    def poll(self) -> Sequence[Event]:
        """Return what happened since the last call, in order."""
        events, self._ahead = self._ahead, []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def wait(self, seconds: float) -> None:
        """Return when there is something to poll, or after `seconds`."""
        if self._ahead:
            return
        try:
            self._ahead.append(self._events.get(timeout=seconds))
        except queue.Empty:
            return

    def stop(self, world: int) -> None:
        """Ask a world's attempt to write a checkpoint and end."""
        if world in self._running:
            self._running[world][1].set()

    def kill(self, world: int) -> None:
        """Ask likewise: a thread cannot be ended from outside."""
        self.stop(world)

    def lacking(self) -> str:
        """Return the words for what there is."""
        return f"this process runs {self._parallel} at a time"

    def close(self) -> None:
        """Ask all attempts to stop, and wait for them."""
        for _, stop in self._running.values():
            stop.set()
        for thread, _ in self._running.values():
            thread.join()
        self._running.clear()

    def _run(self, world: int, attempt: str, stop: threading.Event) -> None:
        with self._room:
            self._events.put(Started(world, attempt, platform.node()))
            outcome = outcome_of(
                partial(
                    self._function,
                    self._run_uri,
                    self._config,
                    world,
                    attempt,
                    stop=stop.is_set,
                    report=lambda values: self._events.put(Progress(world, attempt, values)),
                )
            )
        self._events.put(Ended(world, attempt, outcome.cause, outcome.message, outcome.receipt))


def _default_attempt() -> AttemptFunction:
    from workers.attempt import run_attempt

    return run_attempt
