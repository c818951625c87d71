"""Attempts as Ray actors: one actor an attempt, gone when the attempt is over.

Ray retries nothing. Why an actor vanished is judged by what became of its
machine: gone or about to go, it was preempted; still there, it is asked whether
the system killed a process for memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.executors import cluster
from orchestrator.executors.actor import CountKills, News, WorldActor
from orchestrator.executors.base import (
    AttemptFunction,
    Beat,
    Ended,
    Event,
    Leaving,
    Progress,
    Started,
)
from orchestrator.executors.memory import oom_kills
from orchestrator.executors.room import Demand, Machine, demand_of
from orchestrator.labels import selector_of, takes
from workers.config import WorldConfig
from workers.errors import RunError
from workers.storage import Storage

_LONG_POLL = 1.0
"""Seconds that an actor waits for news before it answers that there are none; delays `stop`."""
_AGAIN = 1.0
"""Seconds before an actor that could not be reached, or the cluster, is looked at again."""
_AUTOPSY = 30.0
"""Seconds that a machine has to say why a process on it vanished; Ray may take nearly as long
to notice that the machine itself is gone."""
_TURN = 120.0
"""Seconds for which a world that waits asks for machines of one choice before all others: Ray's
autoscaler never turns from the first one, though no such machine is to be had."""


@dataclass(slots=True)
class _Live:
    world: int
    attempt: str
    actor: Any
    avoid: frozenset[str]
    machines: frozenset[str]
    """That were there since it was asked for, until it is placed."""
    choice: int = 0
    """Of machines, the one that it asks for first."""
    asked: float = field(default_factory=time.monotonic)
    """Since when it does so."""
    answer: Any = None
    """What the actor was asked last, not yet taken in; None: it is to be asked again."""
    again: float = 0.0
    """When to ask again, or no longer to wait for an answer about a death."""
    node: str | None = None
    """Ray's id of its machine, once it is placed."""
    begun: bool = False
    kills: int | None = None
    """Processes that the system had killed for memory on that machine when last told."""
    leaving: bool = False
    """Whether it was told that its machine is about to go."""
    death: Ended | None = None
    """How it ended, unless its machine answers that it was memory."""
    preempted: bool = False
    """Whether Ray says so: where it does not, nothing follows."""


class RayExecutor:
    """Runs attempts as actors on a Ray cluster.

    Args:
        run_uri: the run's folder or URI, which every machine can reach.
        config: of each world; threads 0 become the CPUs of a world, and a world without GPU
            trains on CPUs.
        worlds: how many there are to train, to share a machine fairly.
        address: see `orchestrator.executors.cluster.connect`.
        gpus_per_world: below 1: a share of one GPU; `auto`: 1 where there are any.
        cpus_per_world: `auto`: a fair share, see `demand_of`.
        wanted: attempts that Ray is asked for though there is no room for them, so that an
            autoscaler makes some.
        choices: of machines, as `cluster.machines`; none: any.
        attempt: the function that trains; None: `workers.attempt.run_attempt`. Its module must
            be importable on all machines.
        local_resources: num_cpus and num_gpus of a new local cluster.
        count_kills: called on a world's machine; how many processes the system killed for memory.

    Raises:
        RunError: there is no cluster at the address, or its worlds have no GPU that `config` asks
            for.
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
        wanted: int = 0,
        choices: Sequence[str] = (),
        attempt: AttemptFunction | None = None,
        local_resources: Mapping[str, float] | None = None,
        count_kills: CountKills = oom_kills,
    ) -> None:
        # Actors have working directories of their own.
        self._run_uri = Storage(run_uri).uri
        self._function = attempt
        self._count_kills = count_kills
        self._wanted = wanted
        self._choices = [selector_of(choice) for choice in choices] or [{}]
        self._drained: set[str] = set()
        self._live: dict[int, _Live] = {}
        self._ahead: list[Event] = []
        self._look_at = 0.0
        self._connected = cluster.connect(address, local_resources)
        try:
            machines = list(self._staying().values())
            self.demand = demand_of(worlds, machines, gpus=gpus_per_world, cpus=cpus_per_world)
            self._config = _fitted(config, self.demand)
        except BaseException:
            self.close()
            raise
        self._actor_class: Any = ray.remote(WorldActor)
        self._options = {
            "num_cpus": self.demand.cpus,
            "num_gpus": self.demand.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
        }

    @property
    def gpus_per_world(self) -> float:
        """GPUs of each world, `auto` resolved; 0 on CPUs."""
        return self.demand.gpus

    def slots(self) -> int:
        """Return how many worlds fit on the machines that are alive and stay, or are wanted."""
        room = sum(machine.room(self.demand) for machine in self._staying().values())
        return max(room, self._wanted)

    def start(self, world: int, attempt: str, *, avoid: frozenset[str] = frozenset()) -> None:
        """Ask Ray for an actor; it waits there until there is room."""
        avoid = avoid if self._fits_beside(avoid) else frozenset()
        here = frozenset(self._staying())
        live = self._live[world] = _Live(world, attempt, self._actor(world, avoid), avoid, here)
        self._ask(live)

    def poll(self) -> Sequence[Event]:
        """Return what the actors told, and which of them are gone."""
        self._ask_again()
        self._look_around()
        events, self._ahead = self._ahead, []
        answers = {live.answer: live for live in self._live.values() if live.answer}
        if answers:
            ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=0)
            events += [event for answer in ready for event in self._take(answers[answer])]
        return events

    def wait(self, seconds: float) -> None:
        """Return when an actor answered or vanished, or after `seconds`."""
        answers = [live.answer for live in self._live.values() if live.answer]
        if self._ahead:
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
        self._ahead.append(Ended(world, live.attempt, "stopped", "stopped before it began"))

    def kill(self, world: int) -> None:
        """End a world's process with SIGKILL."""
        if live := self._live.pop(world, None):
            ray.kill(live.actor)

    def lacking(self) -> str:
        """Return the words for what a world needs beside what each machine has."""
        found = [f"{item.cpus:g} CPUs and {item.gpus:g} GPUs" for item in self._staying().values()]
        kind = " that cluster.machines takes" if self._choices != [{}] else ""
        used = ", all of it in use" if self._fits_beside(frozenset()) else ""
        return (
            f"a world needs {self.demand.cpus:g} CPUs and {self.demand.gpus:g} GPUs on one"
            f" machine{kind}, and there is {'; '.join(found) or 'no machine'}{used}"
        )

    def close(self) -> None:
        """End all actors, and leave the cluster if this executor joined it."""
        for world in list(self._live):
            self.kill(world)
        if self._connected:
            ray.shutdown()

    def _staying(self) -> dict[str, Machine]:
        """Return the machines that worlds may run on and that do not leave."""
        return {
            node: machine
            for node, machine in cluster.machines().items()
            if node not in self._drained
            and any(takes(choice, machine.labels) for choice in self._choices)
        }

    def _fits_beside(self, avoid: frozenset[str]) -> bool:
        """Return whether a world fits on a machine that is not to be avoided."""
        staying = self._staying()
        return any(staying[node].room(self.demand) for node in staying.keys() - avoid)

    def _actor(self, world: int, avoid: frozenset[str], choice: int = 0) -> Any:
        """Return an actor that waits for a machine, best of one choice, else of the next ones."""
        beside = {"ray.io/node-id": f"!in({','.join(sorted(avoid))})"} if avoid else {}
        choices = [*self._choices[choice:], *self._choices[:choice]]
        first, *others = [{**conditions, **beside} for conditions in choices]
        fallback = [{"label_selector": conditions} for conditions in others] or None
        options = {**self._options, "label_selector": first, "fallback_strategy": fallback}
        return self._actor_class.options(**options).remote(world, self._count_kills)

    def _take(self, live: _Live) -> list[Event]:
        try:
            answer = ray.get(live.answer)
        except ActorUnavailableError:
            # It may still be alive: only a later answer can tell.
            live.answer, live.again = None, time.monotonic() + _AGAIN
            return []
        except RayError as error:
            return self._bury(live) if live.death else self._lose(live, error)
        if live.death:
            return self._bury(live, answer)
        if live.node is None:
            host, live.node, live.kills = answer
            self._ask(live)
            name = f"{host} ({live.node[:8]})"
            return [Started(live.world, live.attempt, name, live.node)]
        if not live.begun:
            live.begun = True
            self._ask(live)
            return []
        return self._tell(live, answer)

    def _tell(self, live: _Live, news: News) -> list[Event]:
        world, attempt, live.kills = live.world, live.attempt, news.kills
        events: list[Event] = [Beat(world, attempt)] if news.beat else []
        events += [Progress(world, attempt, news.progress)] if news.progress else []
        if (end := news.outcome) is None:
            self._ask(live)
            return events
        # A clean end too: an idle actor holds its GPU and keeps a draining machine up.
        self.kill(world)
        return [*events, Ended(world, attempt, end.cause, end.message, end.receipt)]

    def _lose(self, live: _Live, error: RayError) -> list[Event]:
        """Take in that an actor is gone; return how it ended if that is clear."""
        text = " ".join(str(error).split())
        world, attempt = live.world, live.attempt
        if isinstance(error, OutOfMemoryError) or "running low on memory" in text:
            self.kill(world)
            message = "the machine ran low on memory, and Ray ended the process"
            return [Ended(world, attempt, "out_of_memory", message, vanished=True)]
        if not isinstance(error, RayActorError):
            self.kill(world)
            return [Ended(world, attempt, "error", text)]
        live.death = Ended(world, attempt, "error", f"its process vanished: {text}", vanished=True)
        live.preempted = isinstance(error, ActorDiedError) and error.preempted
        if live.node is None or self._has_gone(live):
            return self._bury(live)
        self._ask_machine(live, live.node)
        return []

    def _ask_machine(self, live: _Live, node: str) -> None:
        """Ask a machine about a process that vanished there: its own system knows best."""
        pinned = NodeAffinitySchedulingStrategy(node, soft=False)
        task: Any = ray.remote(_call)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": pinned}
        live.answer = task.options(**options).remote(self._count_kills)
        live.again = time.monotonic() + _AUTOPSY

    def _bury(self, live: _Live, kills: int | None = None) -> list[Event]:
        """Return how a process that vanished ended, given what its machine says if it does."""
        assert live.death
        self.kill(live.world)
        if self._has_gone(live):
            return [Ended(live.world, live.attempt, "preemption", "its machine was taken away")]
        if kills is not None and live.kills is not None and kills > live.kills:
            message = "the machine ran out of memory, and the system killed the process"
            return [replace(live.death, cause="out_of_memory", message=message)]
        return [live.death]

    def _has_gone(self, live: _Live) -> bool:
        """Return whether the machine of an attempt went, or is about to."""
        left = self._staying()
        if live.node is None:
            # Nobody told on which machine it was about to begin.
            return live.preempted or not live.machines <= left.keys()
        return live.preempted or live.node not in left

    def _ask(self, live: _Live) -> None:
        if live.begun:
            live.answer = live.actor.news.remote(_LONG_POLL)
        elif live.node:
            live.answer = live.actor.begin.remote(
                self._function, self._run_uri, self._config, live.world, live.attempt
            )
        else:
            live.answer = live.actor.place.remote()

    def _ask_again(self) -> None:
        now = time.monotonic()
        for live in list(self._live.values()):
            if live.answer is None and now >= live.again:
                self._ask(live)
            elif live.death and now >= live.again:
                self._ahead += self._bury(live)

    def _look_around(self) -> None:
        """Look which machines are about to go, once in a while: it takes a trip to the head."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _AGAIN
        self._drained |= cluster.draining()
        self._look_after_waiting()
        for live in list(self._live.values()):
            if live.node in self._drained and not live.leaving:
                live.leaving = True
                self._ahead.append(Leaving(live.world, live.attempt))
            if live.node is None and live.avoid and not self._fits_beside(live.avoid):
                # A bad machine is better than none: the next attempt will not avoid it.
                self.kill(live.world)
                message = "the only machines that it was to run on are gone"
                self._ahead.append(Ended(live.world, live.attempt, "stopped", message))

    def _look_after_waiting(self) -> None:
        """See which machines come for worlds that wait, and let other choices have their turn."""
        waiting = [live for live in self._live.values() if live.node is None]
        if not waiting:
            return
        staying = self._staying()
        room = sum(machine.room(self.demand) for machine in staying.values())
        # Else one of them may be about to begin.
        is_full = room <= len(self._live) - len(waiting)
        for live in waiting:
            live.machines |= frozenset(staying)
            if is_full and len(self._choices) > 1 and time.monotonic() - live.asked >= _TURN:
                ray.kill(live.actor)
                live.choice = (live.choice + 1) % len(self._choices)
                live.asked = time.monotonic()
                live.actor = self._actor(live.world, live.avoid, live.choice)
                self._ask(live)


def _call(count_kills: CountKills) -> int | None:
    return count_kills()


def _fitted(config: WorldConfig, demand: Demand) -> WorldConfig:
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
