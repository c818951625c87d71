"""The remote side of one attempt: training in a thread, the actor free to be asked."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import ray

from orchestrator.executors.base import AttemptFunction, Outcome, outcome_of
from workers.config import WorldConfig

CountKills = Callable[[], int | None]
"""Returns how many processes the system killed for memory; None where it does not tell."""


class Placed(NamedTuple):
    """Where an attempt is to run."""

    host: str
    node: str
    """Ray's id of the machine."""
    kills: int | None
    """What `CountKills` returned there."""


class News(NamedTuple):
    """What an attempt has to tell."""

    beat: bool
    """Whether it gave a sign of life since the last news."""
    progress: dict[str, Any] | None
    """The newest not yet told."""
    outcome: Outcome | None
    """How it ended, if it did."""
    kills: int | None
    """What `CountKills` returns there."""


class WorldActor:
    """Runs one attempt."""

    def __init__(self, world: int, count_kills: CountKills) -> None:
        self._name = f"world {world}"
        self._count_kills = count_kills
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._beaten = False
        self._progress: dict[str, Any] | None = None
        self._outcome: Outcome | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        # Ray puts this before each line that the actor logs.
        return self._name

    def place(self) -> Placed:
        """Return where this is; asked first, so that it is known whatever happens next."""
        node = ray.get_runtime_context().get_node_id()
        return Placed(platform.node(), node, self._count_kills())

    def begin(
        self,
        function: AttemptFunction | None,
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
    ) -> None:
        """Start training, once."""
        if self._thread is None:
            call = partial(_attempt, function, run_uri, config, world, attempt)
            run = partial(call, stop=self._stop.is_set, report=self._report, beat=self._beat)
            self._thread = threading.Thread(
                target=self._run, args=(run,), name=self._name, daemon=True
            )
            self._thread.start()

    def news(self, seconds: float) -> News:
        """Return what there is to tell.

        Args:
            seconds: to wait for progress or the end; a beat alone can wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._progress or self._outcome, timeout=seconds)
            progress, self._progress = self._progress, None
            beat, self._beaten = self._beaten, False
            return News(beat, progress, self._outcome, self._count_kills())

    def stop(self) -> None:
        """Ask the attempt to write a checkpoint and end."""
        self._stop.set()

    def _run(self, call: Any) -> None:
        outcome = outcome_of(call)
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()

    def _report(self, values: dict[str, Any]) -> None:
        with self._changed:
            self._progress = values
            self._changed.notify_all()

    def _beat(self) -> None:
        # Without the lock: called at every step, and one that is lost is followed by another.
        self._beaten = True


def _attempt(function: AttemptFunction | None, *args: Any, **words: Any) -> dict[str, Any]:
    if function is None:
        from workers.attempt import run_attempt

        return run_attempt(*args, stop_waiting=True, **words)
    return function(*args, **words)
