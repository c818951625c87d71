"""A run in memory, and an executor that does as it is told, with a clock that is set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.config import RetryConfig
from orchestrator.driver import Driver, Summary
from orchestrator.executors import Ended, Event, Started
from orchestrator.run import Run
from orchestrator.state import Cause
from workers.storage import Source, to_json

RETRY = RetryConfig(error=3, out_of_memory=1, backoff_seconds=2.0, backoff_cap_seconds=60.0)


Script = dict[int, list[tuple[Cause, int]]]
"""By world, how its attempts end, and at which step they commit a checkpoint before; 0: none."""


class FakeExecutor:
    """Plays a script: for each world a list of ends, one an attempt; then all end done.

    Args:
        run: whose files the attempts write.
        script: by world; each item a cause, or a cause and the step of a checkpoint.
        slots: attempts at the same time.
    """

    def __init__(
        self,
        run: Run,
        script: Script | None = None,
        *,
        slots: int | None = None,
    ) -> None:
        self.run = run
        self.script = {world: list(ends) for world, ends in (script or {}).items()}
        self.now = 0.0
        self.room = slots
        self.live: dict[int, str] = {}
        self.started: list[tuple[int, str]] = []
        self.started_at: list[float] = []
        self.events: list[Event] = []
        self.avoided: list[frozenset[str]] = []
        self.stopped: list[int] = []
        self.killed: list[int] = []
        self.contents: dict[int, dict[str, dict[str, list[str]]]] = {}
        """What each world read, as `final/content.json` tells; none: no such file."""
        self.placing = True
        self.holding = False
        self.most = 0

    def clock(self) -> float:
        return self.now

    @property
    def gpus_per_world(self) -> float:
        return 0.0

    def slots(self) -> int | None:
        return self.room

    def start(self, world: int, attempt: str, *, avoid: frozenset[str] = frozenset()) -> None:
        assert world not in self.live
        self.live[world] = attempt
        self.most = max(self.most, len(self.live))
        self.started.append((world, attempt))
        self.started_at.append(self.now)
        self.avoided.append(avoid)
        if self.placing:
            self.place(world)
        if self.placing and not self.holding:
            self.end(world)

    def place(self, world: int, where: str = "place") -> None:
        self.events.append(Started(world, self.live[world], "host", where))

    def end(self, world: int, *, vanished: bool = False) -> None:
        cause, step = self.script[world].pop(0) if self.script.get(world) else ("done", 0)
        attempt = self.live.pop(world)
        paths = self.run.paths
        if step:
            self.run.storage.commit(paths.checkpoint(world, attempt, step), {"state.json": b"{}"})
        if cause == "done":
            files: dict[str, Source] = {"model.safetensors": b"w"}
            if world in self.contents:
                files["content.json"] = to_json({"content": self.contents[world]})
            self.run.storage.commit(paths.final(world, attempt), files)
        self.events.append(Ended(world, attempt, cause, f"{cause} of {world}", vanished=vanished))

    def poll(self) -> Sequence[Event]:
        events, self.events = self.events, []
        return events

    def wait(self, seconds: float) -> None:
        if not self.events:
            self.now += max(seconds, 0.01)

    def stop(self, world: int) -> None:
        self.stopped.append(world)
        self.script.setdefault(world, []).insert(0, ("stopped", 0))
        self.end(world)

    def kill(self, world: int) -> None:
        self.killed.append(world)
        del self.live[world]

    def lacking(self) -> str:
        return "a world needs 8 GPUs"

    def close(self) -> None:
        self.live.clear()


def make_run(worlds: int = 3) -> Run:
    """Return a new run on a filesystem of Arrow's that lives in memory."""
    return Run.create("mock:///bucket/run", {"seed": 5}, {"worlds": worlds})


def driver(executor: FakeExecutor, **options: Any) -> Driver:
    return Driver(executor.run, executor, **{"retry": RETRY, "clock": executor.clock, **options})


def drive(executor: FakeExecutor, **options: Any) -> Summary:
    return driver(executor, **options).run_to_end()


def causes(run: Run, world: int) -> list[Cause | None]:
    return [attempt.cause for attempt in run.state(world).attempts]
