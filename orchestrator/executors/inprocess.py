"""Attempts in threads of this process: for tests, debugging, and machines without Ray."""

from __future__ import annotations

import platform
import queue
import threading
from collections.abc import Sequence
from functools import partial

import torch

from orchestrator.executors.base import (
    AttemptFunction,
    Beat,
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
        grace: seconds that `close` waits for an attempt that was killed.
    """

    def __init__(
        self,
        run_uri: str,
        config: WorldConfig,
        *,
        attempt: AttemptFunction | None = None,
        parallel: int = 1,
        grace: float = 10.0,
    ) -> None:
        self._run_uri = run_uri
        self._config = config
        self._function = attempt or _default_attempt()
        self._parallel = parallel
        self._grace = grace
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ahead: list[Event] = []
        self._beaten: set[tuple[int, str]] = set()
        self._room = threading.Semaphore(parallel)
        self._running: dict[int, _Running] = {}
        self._abandoned: list[_Running] = []

    @property
    def gpus_per_world(self) -> float:
        """GPUs of each world: one, where it trains on one."""
        device = self._config.runtime.device
        return float(torch.cuda.is_available() if device == "auto" else device != "cpu")

    def slots(self) -> int:
        """Return the number of attempts that run at the same time."""
        return self._parallel

    def start(self, world: int, attempt: str, *, avoid: frozenset[str] = frozenset()) -> None:
        """Begin an attempt in a thread of its own; there is no other place to choose."""
        running = _Running(self._room)
        running.thread = threading.Thread(
            target=self._run, args=(world, attempt, running), name=f"world {world}", daemon=True
        )
        self._running[world] = running
        running.thread.start()

    def poll(self) -> Sequence[Event]:
        """Return what happened since the last call, in order."""
        events, self._ahead = self._ahead, []
        while not self._events.empty():
            events.append(self._events.get())
        while self._beaten:
            events.append(Beat(*self._beaten.pop()))
        return events

    def wait(self, seconds: float) -> None:
        """Return when there is something to poll, beats aside, or after `seconds`."""
        if self._ahead:
            return
        try:
            self._ahead.append(self._events.get(timeout=seconds))
        except queue.Empty:
            return

    def stop(self, world: int) -> None:
        """Ask a world's attempt to write a checkpoint and end."""
        if world in self._running:
            self._running[world].stop.set()

    def kill(self, world: int) -> None:
        """Ask likewise, and give its room to another: a thread cannot be ended from outside.

        Its files are its own, so that it can go on for a while without harm.
        """
        if running := self._running.pop(world, None):
            running.stop.set()
            running.leave()
            self._abandoned.append(running)

    def lacking(self) -> str:
        """Return the words for what there is."""
        return f"this process runs {self._parallel} at a time"

    def close(self) -> None:
        """Ask all attempts to stop, and wait for them; not for long for those that were killed."""
        for running in self._running.values():
            running.stop.set()
        for running in self._running.values():
            running.thread.join()
        for running in self._abandoned:
            running.thread.join(self._grace)
        self._running.clear()
        self._abandoned.clear()

    def _run(self, world: int, attempt: str, running: _Running) -> None:
        if not running.enter():
            return
        here = platform.node()
        self._events.put(Started(world, attempt, here, here))
        outcome = outcome_of(
            partial(
                self._function,
                self._run_uri,
                self._config,
                world,
                attempt,
                stop=running.stop.is_set,
                report=lambda values: self._events.put(Progress(world, attempt, values)),
                beat=lambda: self._beaten.add((world, attempt)),
            )
        )
        running.leave()
        self._events.put(Ended(world, attempt, outcome.cause, outcome.message, outcome.receipt))


class _Running:
    """A thread that takes a share of the room, until it is done or nobody waits for it."""

    def __init__(self, room: threading.Semaphore) -> None:
        self.thread: threading.Thread
        self.stop = threading.Event()
        self._room = room
        self._lock = threading.Lock()
        self._inside = False
        self._left = False

    def enter(self) -> bool:
        """Wait for room and take it; return whether anybody still waits for this thread."""
        self._room.acquire()
        with self._lock:
            self._inside = not self._left
        if not self._inside:
            self._room.release()
        return self._inside

    def leave(self) -> None:
        """Give the room back, the first time."""
        with self._lock:
            inside, self._inside, self._left = self._inside, False, True
        if inside:
            self._room.release()


def _default_attempt() -> AttemptFunction:
    from workers.attempt import run_attempt

    return partial(run_attempt, stop_waiting=True)
