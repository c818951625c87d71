"""The state machine of a run's worlds: no Ray in it, clock and executor handed in.

A world is pending, running, done or failed, and its state.json says which. The
driver starts attempts as there is room, and when one ends decides from the
cause, and from what is committed, what becomes of the world:

- `final/` is committed: done, whatever else was reported;
- data: failed; config: failed, and the whole run ends;
- error, hung, out_of_memory, preemption: pending again after a pause, until
  there were as many ends in a row, without a new checkpoint in between, as
  `RetryConfig` allows: then failed;
- stopped: pending.

No world's failure stops another one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from orchestrator.budget import pause, spent
from orchestrator.config import RetryConfig
from orchestrator.executors.base import Ended, Event, Executor, Progress, Started
from orchestrator.run import Run
from orchestrator.state import Attempt, Cause, WorldState
from workers.errors import RunError
from workers.hashing import derive_seed

_PATIENCE = 1.0
"""Seconds that the driver waits for an event at most before it looks at the clock again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldStatus:
    """What there is to see of one world while the driver runs."""

    world: int
    status: str
    """pending, waiting (for a place, or out a pause after a failure), running, done or failed."""
    attempts: int
    cause: Cause | None
    """How its last attempt ended; None if none did."""
    message: str
    progress: Mapping[str, Any]
    """Fields of `workers.world.Progress`; empty before the first report of this driver's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a driver left a run; worlds that it was not asked for are left out."""

    done: tuple[int, ...]
    failed: Mapping[int, str]
    """Why, by world."""
    pending: tuple[int, ...]
    error: str | None
    """Why the run ended before its time, if it did."""

    @property
    def complete(self) -> bool:
        """Whether all worlds are done."""
        return not self.failed and not self.pending


@dataclass(slots=True)
class _World:
    state: WorldState
    not_before: float
    """On the driver's clock."""
    attempt: str | None = None
    """The one that runs or awaits its place."""
    placed: bool = False
    progress: dict[str, Any] = field(default_factory=dict)


class Driver:
    """Takes a run's worlds to done or failed.

    Args:
        run: the run; this driver must hold its lease.
        executor: where attempts run; stays open.
        retry: budgets and pauses.
        max_parallel: attempts at the same time at most; None: as many as the executor has room for.
        pending_timeout: seconds that nothing at all may be placed before the run gives up.
        only: the worlds to take care of; None: all.
        listener: gets the status of all worlds of this driver after every change.
        heartbeat: called at every step; may raise to end the driver.
        clock: seconds, never set back.
        now: the time of day, for state.json.

    Worlds that are done stay so. Worlds that had failed are tried again with fresh budgets:
    whoever starts a driver asks for that.

    Raises:
        RunError: `only` names a world that the run does not have.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        *,
        retry: RetryConfig,
        max_parallel: int | None = None,
        pending_timeout: float = 600.0,
        only: Iterable[int] | None = None,
        listener: Callable[[Sequence[WorldStatus]], None] = lambda worlds: None,
        heartbeat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._run = run
        self._executor = executor
        self._retry = retry
        self._max_parallel = max_parallel
        self._pending_timeout = pending_timeout
        self._listener = listener
        self._heartbeat = heartbeat
        self._clock = clock
        self._now = now
        self._stopping = self._told_to_stop = self._killing = False
        self._error: str | None = None
        self._unplaced_since: float | None = None
        self._worlds = {
            world: _World(self._adopt(world), not_before=clock())
            for world in _chosen(run.worlds, only)
        }

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        if any(world.attempt for world in self._worlds.values()):
            return False
        return self._stopping or not self._pending()

    def run_to_end(self) -> Summary:
        """Go on until `finished`; return what became of the worlds."""
        self._listener(self.snapshot())
        while not self.finished:
            self.step()
            if not self.finished:
                self._executor.wait(self._patience())
        return self.summary()

    def step(self) -> None:
        """Take in what happened, and start what may start; never waits."""
        self._heartbeat()
        before = self.snapshot()
        for event in self._executor.poll():
            self._handle(event)
        if self._stopping:
            self._end_all()
        else:
            self._start_due()
            self._check_placement()
        if (after := self.snapshot()) != before:
            self._listener(after)

    def stop(self) -> None:
        """Let every attempt checkpoint and end, and start no more; safe in a signal handler."""
        self._stopping = True

    def kill(self) -> None:
        """End every attempt without a checkpoint; safe in a signal handler."""
        self._stopping = self._killing = True

    def snapshot(self) -> list[WorldStatus]:
        """Return the status of all worlds of this driver, in order."""
        return [_status(world) for world in self._worlds.values()]

    def summary(self) -> Summary:
        """Return what became of the worlds so far."""
        states = [world.state for world in self._worlds.values()]
        return Summary(
            done=tuple(state.index for state in states if state.status == "done"),
            failed={
                state.index: state.attempts[-1].message
                for state in states
                if state.status == "failed"
            },
            pending=tuple(
                state.index for state in states if state.status in ("pending", "running")
            ),
            error=self._error,
        )

    def _adopt(self, index: int) -> WorldState:
        """Return a world's state once what a dead driver left open is settled."""
        state = self._run.state(index)
        if state.status == "done":
            return state
        attempts = tuple(
            item if item.cause else self._close(item, "stopped", "its driver ended before it", 0)
            for item in state.attempts
        )
        if finished := self._run.paths.finished(index):
            settled = replace(state, status="done", winner=finished[0], attempts=attempts)
        else:
            forgiven = len(attempts) if state.status == "failed" else state.forgiven
            settled = replace(state, status="pending", attempts=attempts, forgiven=forgiven)
        return self._saved(state, settled)

    def _handle(self, event: Event) -> None:
        world = self._worlds.get(event.world)
        if world is None or world.attempt != event.attempt:
            return  # Of an attempt that no longer counts.
        if isinstance(event, Progress):
            world.progress = event.values
        elif isinstance(event, Started):
            world.placed = True
            self._change(world, _with_last(world.state, node=event.node))
        else:
            self._end(world, event)

    def _end(self, world: _World, event: Ended) -> None:
        cause, message = event.cause, event.message
        finished = self._run.paths.finished(event.world)
        if cause == "done" and not finished:
            cause, message = "error", "it reported success, but committed no weights"
        newest = self._run.paths.newest_checkpoint(event.world)
        last = self._close(world.state.attempts[-1], cause, message, newest.step if newest else 0)
        attempts = (*world.state.attempts[:-1], last)
        state = replace(world.state, status="pending", attempts=attempts)
        if finished:
            state = replace(state, status="done", winner=finished[0])
        elif cause == "config" or spent(state, self._retry):
            state = replace(state, status="failed")
        self._change(world, state)
        world.attempt = None
        world.not_before = self._clock() + pause(state, self._retry, self._seed(world))
        if cause == "config" and not finished:
            self._give_up(message)

    def _start_due(self) -> None:
        due = [world for world in self._pending() if world.not_before <= self._clock()]
        if not due:
            return
        limits = [self._executor.slots(), self._max_parallel]
        room = min([limit for limit in limits if limit is not None], default=len(self._worlds))
        room = max(1, room) - sum(world.attempt is not None for world in self._worlds.values())
        for world in due[: max(0, room)]:
            self._start(world)

    def _start(self, world: _World) -> None:
        index, paths = world.state.index, self._run.paths
        names = [*paths.attempts(index), *(item.name for item in world.state.attempts)]
        number = 1 + max((paths.attempt_number(name) for name in names), default=0)
        attempt = Attempt(
            name=paths.attempt_name(number, secrets.token_hex(4)), started_at=self._time()
        )
        attempts = (*world.state.attempts, attempt)
        # Saved first: a driver that dies in between leaves no attempt that nobody knows of.
        self._change(world, replace(world.state, status="running", attempts=attempts))
        world.attempt, world.placed = attempt.name, False
        self._executor.start(index, attempt.name)

    def _end_all(self) -> None:
        if self._killing:
            self._abandon("killed")
        elif not self._told_to_stop:
            for index in self._live():
                self._executor.stop(index)
            self._told_to_stop = True

    def _check_placement(self) -> None:
        live = self._live()
        if not live or any(self._worlds[index].placed for index in live):
            self._unplaced_since = None
        elif self._unplaced_since is None:
            self._unplaced_since = self._clock()
        elif self._clock() - self._unplaced_since >= self._pending_timeout:
            self._give_up(
                f"expected room for a world within {self._pending_timeout:g} s, found none:"
                f" {self._executor.lacking()}; ask for less with cluster.gpus_per_world and"
                " cluster.cpus_per_world, or add machines"
            )
            self._abandon("never placed")

    def _abandon(self, message: str) -> None:
        for index in self._live():
            self._executor.kill(index)
            self._end(self._worlds[index], Ended(index, self._attempt(index), "stopped", message))

    def _give_up(self, error: str) -> None:
        self._error = self._error or error
        self._stopping = True

    def _change(self, world: _World, state: WorldState) -> None:
        world.state = self._saved(world.state, state)

    def _saved(self, old: WorldState, new: WorldState) -> WorldState:
        if new != old:
            self._run.save(new)
        return new

    def _close(self, attempt: Attempt, cause: Cause, message: str, steps: int) -> Attempt:
        return replace(attempt, cause=cause, message=message, steps=steps, ended_at=self._time())

    def _pending(self) -> list[_World]:
        return [world for world in self._worlds.values() if world.state.status == "pending"]

    def _live(self) -> list[int]:
        return [index for index, world in self._worlds.items() if world.attempt]

    def _attempt(self, index: int) -> str:
        return self._worlds[index].attempt or ""

    def _patience(self) -> float:
        due = [world.not_before - self._clock() for world in self._pending()]
        return max(0.0, min([_PATIENCE, *(seconds for seconds in due if seconds > 0)]))

    def _seed(self, world: _World) -> int:
        seed = int(self._run.identity.get("seed", 0))
        return derive_seed(seed, world.state.index, "pause", len(world.state.attempts))

    def _time(self) -> str:
        return self._now().isoformat(timespec="seconds")


def _chosen(worlds: int, only: Iterable[int] | None) -> list[int]:
    if only is None:
        return list(range(worlds))
    chosen = sorted(set(only))
    if wrong := [world for world in chosen if not 0 <= world < worlds]:
        raise RunError(
            f"expected worlds from 0 to {worlds - 1}, found {', '.join(map(str, wrong))};"
            " raise worlds=... to have more"
        )
    return chosen


def _with_last(state: WorldState, *, node: str) -> WorldState:
    last = replace(state.attempts[-1], node=node)
    return replace(state, attempts=(*state.attempts[:-1], last))


def _status(world: _World) -> WorldStatus:
    state = world.state
    ended = [item for item in state.attempts if item.cause]
    return WorldStatus(
        world=state.index,
        status="waiting" if world.attempt and not world.placed else state.status,
        attempts=len(state.attempts),
        cause=ended[-1].cause if ended else None,
        message=ended[-1].message if ended else "",
        progress=world.progress,
    )
