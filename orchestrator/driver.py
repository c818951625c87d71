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

An attempt that gives no sign of life for too long is killed: hung. One whose
machine is about to go is asked for a checkpoint, and moves: preemption. Places
where attempts died twice are avoided. No world's failure stops another one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from orchestrator import adopting, transitions
from orchestrator.budget import pause
from orchestrator.config import RetryConfig
from orchestrator.executors.base import Ended, Event, Executor, Leaving, Progress, Started
from orchestrator.placement import Placement
from orchestrator.run import Run
from orchestrator.spending import Spending
from orchestrator.state import Cause, WorldState
from orchestrator.watchdog import Watchdog
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
    lacking: str = ""
    """What is missing, if the world has been waiting for a place for too long."""
    node: str = ""
    """The machine of its last attempt."""
    ends: int = 0
    """Attempts that are over."""


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
    place: str | None = None
    """Where that one runs; None: nowhere yet."""
    leaving: bool = False
    """Whether that place is about to go."""
    lacking: str = ""
    progress: dict[str, Any] = field(default_factory=dict)


class Driver:
    """Takes a run's worlds to done or failed.

    Args:
        run: the run; this driver must hold its lease.
        executor: where attempts run; stays open.
        retry: budgets and pauses.
        max_parallel: attempts at the same time at most; None: as many as the executor has room for.
        pending_timeout: seconds that a world may wait for a place before the listener hears what
            is missing, and that nothing at all may be placed before the run gives up.
        spending: says when no more attempts may begin; None: never.
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
        spending: Spending | None = None,
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
        self._stopping = self._told_to_stop = self._killing = self._all_spent = False
        self._spending = spending or Spending()
        self._error: str | None = None
        self._watchdog = Watchdog(retry.stall_timeout, clock)
        self._placement = Placement(pending_timeout, clock)
        self._worlds = {
            world: _World(self._adopt(run.state(world)), not_before=clock())
            for world in run.chosen(only)
        }
        others = [world for world in range(run.worlds) if world not in self._worlds]
        self._others = [self._settled(world) for world in others]

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        if any(world.attempt for world in self._worlds.values()):
            return False
        return self._stopping or self._all_spent or not self._pending()

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
        self._end_hung()
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

    def _settled(self, index: int) -> WorldState:
        """Return the state of a world that this driver was not asked for, and that does not run."""
        state = self._run.state(index)
        return self._adopt(state) if state.status == "running" else state

    def _adopt(self, state: WorldState) -> WorldState:
        return self._saved(state, adopting.adopted(self._run, state, self._now()))

    def _handle(self, event: Event) -> None:
        world = self._worlds.get(event.world)
        if world is None or world.attempt != event.attempt:
            return  # Of an attempt that no longer counts.
        if isinstance(event, Ended):
            self._end(world, event)
        elif isinstance(event, Leaving):
            world.leaving = True
            self._executor.stop(event.world)
        else:
            self._watchdog.heard(event.world)
            if isinstance(event, Progress):
                world.progress = event.values
            elif isinstance(event, Started):
                self._place(world, event)

    def _place(self, world: _World, event: Started) -> None:
        world.place, world.lacking = event.place, ""
        self._placement.settled(event.world)
        self._change(world, transitions.placed(world.state, event.node, self._time()))

    def _end(self, world: _World, event: Ended) -> None:
        winner, refusal = self._run.accept(event.world)
        if refusal:
            event = replace(event, cause="data", message=refusal)
        cause, message = transitions.judged(
            event, leaving=world.leaving, committed=winner is not None
        )
        newest = self._run.paths.newest_checkpoint(event.world)
        state = transitions.ended(
            world.state,
            cause,
            message,
            steps=newest.step if newest else 0,
            winner=winner,
            retry=self._retry,
            time=self._time(),
        )
        self._change(world, state)
        if event.vanished or cause in ("hung", "out_of_memory"):
            self._placement.died(world.place)
        self._release(world)
        world.not_before = self._clock() + pause(state, self._retry, self._seed(world))
        if cause == "config" and not winner:
            self._give_up(message)

    def _release(self, world: _World) -> None:
        self._watchdog.forget(world.state.index)
        self._placement.settled(world.state.index)
        world.attempt, world.place, world.leaving, world.lacking = None, None, False, ""

    def _end_hung(self) -> None:
        for index in self._watchdog.look():
            world = self._worlds[index]
            self._executor.kill(index)
            self._end(world, Ended(index, self._attempt(index), "hung", self._stalled()))

    def _start_due(self) -> None:
        due = [world for world in self._pending() if world.not_before <= self._clock()]
        if not due or self._is_all_spent():
            return
        limits = [self._executor.slots(), self._max_parallel]
        room = min([limit for limit in limits if limit is not None], default=len(self._worlds))
        room = max(1, room) - sum(world.attempt is not None for world in self._worlds.values())
        for world in due[: max(0, room)]:
            self._start(world)

    def _is_all_spent(self) -> bool:
        states = [*self._others, *(world.state for world in self._worlds.values())]
        if refusal := self._spending.refusal(states, self._now()):
            self._all_spent, self._error = True, self._error or refusal
        return self._all_spent

    def _start(self, world: _World) -> None:
        index = world.state.index
        winner, _ = self._run.accept(index)
        if winner:
            # Of an attempt that was thought dead.
            self._change(world, transitions.finished(world.state, winner))
            return
        attempt = self._new_name(world.state)
        # Saved first: a driver that dies in between leaves no attempt that nobody knows of.
        self._change(world, transitions.begun(world.state, attempt, self._time()))
        world.attempt = attempt
        self._placement.asked(index)
        self._executor.start(index, attempt, avoid=self._placement.bad)

    def _new_name(self, state: WorldState) -> str:
        paths = self._run.paths
        names = [*paths.attempts(state.index), *(item.name for item in state.attempts)]
        number = 1 + max((paths.attempt_number(name) for name in names), default=0)
        return paths.attempt_name(number, secrets.token_hex(4))

    def _end_all(self) -> None:
        if self._killing:
            self._abandon("killed")
        elif not self._told_to_stop:
            for index in self._live():
                self._executor.stop(index)
            self._told_to_stop = True

    def _check_placement(self) -> None:
        placed = [index for index in self._live() if self._worlds[index].place is not None]
        if self._placement.is_hopeless(placed):
            self._give_up(
                f"expected room for a world within {self._pending_timeout:g} s, found none:"
                f" {self._executor.lacking()}; ask for less with cluster.gpus_per_world and"
                " cluster.cpus_per_world, or add machines"
            )
            self._abandon("never placed")
        for index in self._placement.overdue():
            world = self._worlds[index]
            world.lacking = world.lacking or self._executor.lacking()

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

    def _stalled(self) -> str:
        return (
            f"expected a sign of life within {self._retry.stall_timeout:g} s, found none: killed;"
            " raise retry.stall_timeout if one step may take longer"
        )

    def _time(self) -> str:
        return self._now().isoformat(timespec="seconds")


def _status(world: _World) -> WorldStatus:
    state = world.state
    ended = [item for item in state.attempts if item.cause]
    return WorldStatus(
        world=state.index,
        status="waiting" if world.attempt and world.place is None else state.status,
        attempts=len(state.attempts),
        cause=ended[-1].cause if ended else None,
        message=ended[-1].message if ended else "",
        progress=world.progress,
        lacking=world.lacking,
        node=(state.attempts[-1].node or "") if state.attempts else "",
        ends=len(ended),
    )
