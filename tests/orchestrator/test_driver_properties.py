"""Whatever happens, in any order: every world ends done or failed, and one attempt counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import RetryConfig
from orchestrator.driver import Driver, Summary
from orchestrator.executors import Beat, Ended, Event, Leaving, Progress, Started
from orchestrator.run import Run
from orchestrator.state import Cause, WorldState
from tests.orchestrator.crashes import Crash, writes
from tests.orchestrator.fakes import FakeExecutor, Script, drive, make_run

WORLDS = 3
PLACES = ("east", "west")
CAUSES: list[Cause] = [
    "done",
    "stopped",
    "preemption",
    "error",
    "out_of_memory",
    "hung",
    "data",
    "config",
]
RETRY = RetryConfig(
    error=3, out_of_memory=2, stall_timeout=20.0, backoff_seconds=2.0, backoff_cap_seconds=8.0
)
ends = st.lists(st.tuples(st.sampled_from(CAUSES[:-1]), st.integers(0, 3)), max_size=8)
scripts = st.fixed_dictionaries({world: ends for world in range(WORLDS)})
orders = st.integers(0, 2**32)


class Unruly(FakeExecutor):
    """Does all that an executor may, in any order, and much that none should.

    Attempts begin late or never say so, fall silent, lose their machines, go on writing after
    they were thought dead; events come twice, late, and of attempts long gone.
    """

    def __init__(self, run: Run, script: Script, order: Random) -> None:
        super().__init__(run, script, slots=2)
        self.placing = False
        self.holding = True
        self.order = order
        self.at: dict[int, str] = {}
        self.silent: set[str] = set()
        self.leavings = 6

    def start(self, world: int, attempt: str, *, avoid: frozenset[str] = frozenset()) -> None:
        # Neither a finished world, nor one that has failed, is trained.
        assert self.run.finished(world) is None
        assert self.run.state(world).status == "running"
        super().start(world, attempt, avoid=avoid)

    def stop(self, world: int) -> None:
        self.stopped.append(world)
        if self.order.random() < 0.7:
            super().stop(world)

    def kill(self, world: int) -> None:
        self.at.pop(world, None)
        super().kill(world)

    def end(self, world: int, *, vanished: bool = False) -> None:
        if self.script.get(world) and self.script[world][0][0] == "hung":
            # One that never began would wait for its place, which is told in another way.
            if world in self.at:
                self.script[world].pop(0)
                self.silent.add(self.live[world])
            return
        self.at.pop(world, None)
        super().end(world, vanished=vanished)

    def poll(self) -> Sequence[Event]:
        for world in list(self.live):
            if self.live[world] not in self.silent:
                self._go_on(world)
        if self.started and self.order.random() < 0.5:
            self._haunt(*self.order.choice(self.started))
        return super().poll()

    def _go_on(self, world: int) -> None:
        attempt = self.live[world]
        act = self.order.randrange(6)
        if act < 2 and world not in self.at:
            allowed = [place for place in PLACES if place not in self.avoided[-1]]
            self.at[world] = self.order.choice(allowed or PLACES)
            self.place(world, self.at[world])
        elif act == 2:
            self.events.append(Beat(world, attempt))
        elif act == 3:
            self.events.append(Progress(world, attempt, {"step": 1}))
        elif act == 4 and self.leavings:
            self.leavings -= 1
            self.events.append(Leaving(world, attempt))
        elif act == 5:
            self.end(world, vanished=self.order.random() < 0.5)

    def _haunt(self, world: int, attempt: str) -> None:
        """Let an attempt that is over, or is thought so, be heard of once more."""
        if self.live.get(world) == attempt:
            return
        late: list[Event] = [
            Ended(world, attempt, self.order.choice(CAUSES)),
            Started(world, attempt, "late", "elsewhere"),
            Beat(world, attempt),
            Leaving(world, attempt),
        ]
        self.events += self.order.sample(late, 2)
        if self.order.random() < 0.2:
            finish(self.run, world, attempt)


def finish(run: Run, world: int, attempt: str) -> None:
    run.storage.commit(run.paths.final(world, attempt), {"model.safetensors": b"w"})


def driven(executor: Unruly) -> Summary:
    held = Driver(executor.run, executor, retry=RETRY, max_parallel=3, clock=executor.clock)
    return held.run_to_end()


@given(scripts, orders)
@settings(max_examples=80)
def test_any_order_of_events_ends_every_world(script: Script, order: int) -> None:
    executor = Unruly(make_run(), script, Random(order))
    summary = driven(executor)
    assert summary.error is None
    assert sorted([*summary.done, *summary.failed]) == list(range(WORLDS))
    assert executor.most <= 2
    for state in executor.run.states():
        started = [name for world, name in executor.started if world == state.index]
        assert [attempt.name for attempt in state.attempts] == started
        assert_sound(executor.run, state)


@given(scripts, orders, st.lists(st.integers(0, 25), max_size=4))
@settings(max_examples=40)
def test_drivers_that_die_at_any_moment_change_nothing_of_it(
    script: Script, order: int, deaths: list[int]
) -> None:
    run, chance = make_run(), Random(order)
    left = script
    for number in deaths:
        executor = Unruly(run, left, chance)
        before = winners(run)
        try:
            with writes(number):
                driven(executor)
        except Crash:
            # Its attempts may go on for a while.
            for world, attempt in executor.live.items():
                if chance.random() < 0.3:
                    finish(run, world, attempt)
        assert before.items() <= winners(run).items()
        left = executor.script
    summary = driven(Unruly(run, left, chance))
    assert sorted([*summary.done, *summary.failed]) == list(range(WORLDS))
    for state in run.states():
        assert_sound(run, state)


@given(scripts, orders)
@settings(max_examples=20)
def test_whoever_asks_again_gets_the_rest(script: Script, order: int) -> None:
    run = make_run()
    driven(Unruly(run, script, Random(order)))
    before = winners(run)
    assert drive(FakeExecutor(run)).complete
    assert before.items() <= winners(run).items()


def winners(run: Run) -> dict[int, str]:
    return {state.index: state.winner for state in run.states() if state.winner}


def assert_sound(run: Run, state: WorldState) -> None:
    assert state.status in ("done", "failed")
    assert all(attempt.cause and attempt.ended_at for attempt in state.attempts)
    assert len({attempt.name for attempt in state.attempts}) == len(state.attempts)
    counts = run.finished(state.index)
    if state.status == "done":
        # The one that counts is the one that is written down, and its weights are there.
        assert counts is not None and counts[0] == state.winner
        assert state.winner in finals(run, state.index)
    else:
        assert state.attempts[-1].cause in ("error", "hung", "out_of_memory", "data")


def finals(run: Run, world: int) -> Iterator[str]:
    for attempt in run.paths.attempts(world):
        if run.storage.committed(run.paths.final(world, attempt)):
            yield attempt
