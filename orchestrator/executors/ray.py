"""Attempts as Ray actors: one actor an attempt, gone when the attempt is over.

Training runs in a thread of the actor. Its main thread answers `news`, which
waits a moment for something to tell, and `stop`. Ray retries nothing; whether an
actor that vanished was preempted is judged by what became of its machine.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)

from orchestrator.executors import cluster
from orchestrator.executors.base import (
    AttemptFunction,
    Ended,
    Event,
    Outcome,
    Progress,
    Started,
    outcome_of,
)
from orchestrator.state import Cause
from workers.config import WorldConfig
from workers.errors import RunError
from workers.storage import Storage

_LONG_POLL = 1.0
"""Seconds that an actor waits for news before it answers that there are none; delays `stop`."""
_AGAIN = 1.0
"""Seconds before an actor that could not be reached is asked again."""


class WorldActor:
    """The remote side of one attempt."""

    def __init__(self, world: int) -> None:
        self._name = f"world {world}"
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._progress: dict[str, Any] | None = None
        self._outcome: Outcome | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        # Ray puts this before each line that the actor logs.
        return self._name

    def begin(
        self,
        function: AttemptFunction | None,
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
    ) -> tuple[str, str]:
        """Start training, once; return the machine's name and Ray's id for it."""
        if self._thread is None:
            call = partial(_attempt, function, run_uri, config, world, attempt)
            run = partial(call, stop=self._stop.is_set, report=self._report)
            self._thread = threading.Thread(
                target=self._run, args=(run,), name=self._name, daemon=True
            )
            self._thread.start()
        return platform.node(), ray.get_runtime_context().get_node_id()

    def news(self, seconds: float) -> tuple[dict[str, Any] | None, Outcome | None]:
        """Return the newest progress not yet told, and how the attempt ended if it did.

        Args:
            seconds: to wait for either.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._progress or self._outcome, timeout=seconds)
            progress, self._progress = self._progress, None
            return progress, self._outcome

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


@dataclass(slots=True)
class _Live:
    world: int
    attempt: str
    actor: Any
    answer: Any = None
    """What the actor was asked last, not yet taken in; None: it is to be asked again."""
    node: str | None = None
    """Ray's id of its machine, once it is placed."""
    again: float = 0.0


class RayExecutor:
    """Runs attempts as actors on a Ray cluster.

    Args:
        run_uri: the run's folder or URI, which every machine can reach.
        config: of each world; threads 0 become the CPUs of a world, and a world without GPU
            trains on CPUs.
        worlds: how many there are to train, to share a machine fairly.
        address: see `orchestrator.executors.cluster.connect`.
        gpus_per_world: below 1: a share of one GPU; `auto`: 1 where there are any.
        cpus_per_world: `auto`: a fair share, see `cluster.demand_of`.
        attempt: the function that trains; None: `workers.attempt.run_attempt`. Its module must
            be importable on all machines.
        local_resources: num_cpus and num_gpus of a new local cluster.

    Raises:
        RunError: there is no cluster at the address.
    """

    def __init__(
        self,
        run_uri: str,
        config: WorldConfig,
        *,
        worlds: int,
        address: str = "auto",
        gpus_per_world: float | Literal["auto"] = "auto",
        cpus_per_world: int | Literal["auto"] = "auto",
        attempt: AttemptFunction | None = None,
        local_resources: Mapping[str, float] | None = None,
    ) -> None:
        self._connected = cluster.connect(address, local_resources)
        # Actors have working directories of their own.
        self._run_uri = Storage(run_uri).uri
        self._function = attempt
        machines = list(cluster.machines().values())
        self.demand = cluster.demand_of(worlds, machines, gpus=gpus_per_world, cpus=cpus_per_world)
        self._config = _fitted(config, self.demand)
        self._actor_class: Any = ray.remote(WorldActor).options(
            num_cpus=self.demand.cpus,
            num_gpus=self.demand.gpus,
            max_restarts=0,
            max_task_retries=0,
        )
        self._live: dict[int, _Live] = {}
        self._ended: list[Event] = []
        self._drained: set[str] = set()
        self._look_at = 0.0

    def slots(self) -> int:
        """Return how many worlds fit on the machines that are alive."""
        return sum(machine.room(self.demand) for machine in cluster.machines().values())

    def start(self, world: int, attempt: str) -> None:
        """Ask Ray for an actor; it waits there until there is room."""
        live = _Live(world, attempt, self._actor_class.remote(world))
        self._live[world] = live
        self._ask(live)

    def poll(self) -> Sequence[Event]:
        """Return what the actors told, and which of them are gone."""
        self._ask_again()
        self._look_for_drains()
        events, self._ended = self._ended, []
        answers = {live.answer: world for world, live in self._live.items() if live.answer}
        if answers:
            ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=0)
            events += [event for answer in ready for event in self._take(answers[answer])]
        return events

    def wait(self, seconds: float) -> None:
        """Return when an actor answered or vanished, or after `seconds`."""
        answers = [live.answer for live in self._live.values() if live.answer]
        if self._ended:
            return
        if answers:
            ray.wait(answers, num_returns=1, timeout=seconds)
        else:
            time.sleep(seconds)

    def stop(self, world: int) -> None:
        """Ask a world's attempt to write a checkpoint and end."""
        live = self._live.get(world)
        if live is None:
            return
        if live.node:
            live.actor.stop.remote()
            return
        # One that waits for room would only hear of it once it got some.
        self.kill(world)
        self._ended.append(Ended(world, live.attempt, "stopped", "stopped before it began"))

    def kill(self, world: int) -> None:
        """End a world's process with SIGKILL."""
        if live := self._live.pop(world, None):
            ray.kill(live.actor)

    def lacking(self) -> str:
        """Return the words for what a world needs beside what each machine has."""
        found = [
            f"{item.cpus:g} CPUs and {item.gpus:g} GPUs" for item in cluster.machines().values()
        ]
        return (
            f"a world needs {self.demand.cpus:g} CPUs and {self.demand.gpus:g} GPUs on one"
            f" machine, and there is {'; '.join(found) or 'no machine'}"
        )

    def close(self) -> None:
        """End all actors, and leave the cluster if this executor joined it."""
        for world in list(self._live):
            self.kill(world)
        if self._connected:
            ray.shutdown()

    def _take(self, world: int) -> list[Event]:
        live = self._live[world]
        try:
            answer = ray.get(live.answer)
        except ActorUnavailableError:
            # It may still be alive: only a later answer can tell.
            live.answer, live.again = None, time.monotonic() + _AGAIN
            return []
        except RayError as error:
            self.kill(world)
            return [Ended(world, live.attempt, *self._cause(live, error))]
        if live.node is None:
            host, live.node = answer
            self._ask(live)
            return [Started(world, live.attempt, f"{host} ({live.node[:8]})")]
        progress, outcome = answer
        events: list[Event] = [Progress(world, live.attempt, progress)] if progress else []
        if outcome is None:
            self._ask(live)
            return events
        # A clean end too: an idle actor holds its GPU and keeps a draining machine up.
        self.kill(world)
        ended = Ended(world, live.attempt, outcome.cause, outcome.message, outcome.receipt)
        return [*events, ended]

    def _ask(self, live: _Live) -> None:
        if live.node:
            live.answer = live.actor.news.remote(_LONG_POLL)
        else:
            live.answer = live.actor.begin.remote(
                self._function, self._run_uri, self._config, live.world, live.attempt
            )

    def _ask_again(self) -> None:
        for live in self._live.values():
            if live.answer is None and time.monotonic() >= live.again:
                self._ask(live)

    def _look_for_drains(self) -> None:
        if time.monotonic() >= self._look_at:
            self._drained |= cluster.draining()
            self._look_at = time.monotonic() + _AGAIN

    def _cause(self, live: _Live, error: RayError) -> tuple[Cause, str]:
        text = " ".join(str(error).split())
        if isinstance(error, OutOfMemoryError) or "running low on memory" in text:
            return "out_of_memory", "the machine ran out of memory, and Ray ended the process"
        if not isinstance(error, RayActorError):
            return "error", text
        preempted = isinstance(error, ActorDiedError) and error.preempted
        if preempted or live.node in self._drained or _is_gone(live.node):
            return "preemption", "its machine was taken away"
        return "error", f"its process vanished: {text}"


def _attempt(function: AttemptFunction | None, *args: Any, **words: Any) -> dict[str, Any]:
    if function is None:
        from workers.attempt import run_attempt

        return run_attempt(*args, **words)
    return function(*args, **words)


def _fitted(config: WorldConfig, demand: cluster.Demand) -> WorldConfig:
    runtime = config.runtime
    if runtime.threads == 0:
        # Ray sets OMP_NUM_THREADS and pins no CPU: the count must be said.
        runtime = replace(runtime, threads=demand.cpus)
    if demand.gpus == 0:
        if runtime.device.startswith("cuda"):
            raise RunError(
                f"runtime.device={runtime.device}: expected GPUs for each world, found"
                " cluster.gpus_per_world=0; set it to 1, or runtime.device=cpu"
            )
        runtime = replace(runtime, device="cpu")
    return replace(config, runtime=runtime)


def _is_gone(node: str | None) -> bool:
    # A world that was never placed did not lose its machine.
    return node is not None and node not in cluster.machines()
