"""What the driver asks of an executor, and what it is told by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb
from typing import Any, Protocol

from orchestrator.state import Cause
from workers.config import WorldConfig
from workers.errors import ConfigError, DataError, ManyworldsError

Stop = Callable[[], bool]
Report = Callable[[dict[str, Any]], None]


class AttemptFunction(Protocol):
    """Trains one world; `workers.attempt.run_attempt` is the one that does it in earnest."""

    def __call__(
        self,
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> dict[str, Any]:
        """Return the receipt; raise errors of `workers.errors`, or `Stopped`.

        `beat` is a sign of life, called at every step and whenever else something moved.
        """
        ...


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt was placed and begins."""

    world: int
    attempt: str
    node: str
    """The machine that it runs on, in words for a user."""
    place: str
    """The executor's id of that machine."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt is: the fields of `workers.world.Progress`."""

    world: int
    attempt: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life: an attempt did something since the last one."""

    world: int
    attempt: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """The machine of an attempt is about to be taken away."""

    world: int
    attempt: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt is over, and nothing of it runs any more."""

    world: int
    attempt: str
    cause: Cause
    message: str = ""
    receipt: dict[str, Any] | None = None
    vanished: bool = False
    """Whether its process went without a word, which its machine may be to blame for."""


Event = Started | Progress | Beat | Leaving | Ended


class Executor(Protocol):
    """Runs attempts; has at most one for each world, and never tries one again by itself."""

    @property
    def gpus_per_world(self) -> float:
        """GPUs of each world; 0 on CPUs."""
        ...

    def slots(self) -> int | None:
        """Return how many attempts can run at the same time; None for any number."""
        ...

    def start(self, world: int, attempt: str, *, avoid: frozenset[str] = frozenset()) -> None:
        """Begin an attempt, or queue it until there is room.

        Args:
            world: its index.
            attempt: the attempt's name.
            avoid: places not to run it at, as long as it could run at another.
        """
        ...

    def poll(self) -> Sequence[Event]:
        """Return what happened since the last call, in order, without waiting."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when there is something to poll, or after `seconds`."""
        ...

    def stop(self, world: int) -> None:
        """Ask a world's attempt to write a checkpoint and end."""
        ...

    def kill(self, world: int) -> None:
        """End a world's attempt now; `Ended` need not follow."""
        ...

    def lacking(self) -> str:
        """Return the words for what an attempt needs beside what there is."""
        ...

    def close(self) -> None:
        """End all attempts."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call of an attempt function ended."""

    cause: Cause
    message: str = ""
    receipt: dict[str, Any] | None = None


def outcome_of(call: Callable[[], dict[str, Any]]) -> Outcome:
    """Call an attempt function and return how that ended, whatever it raises."""
    try:
        return Outcome("done", receipt=call())
    except BaseException as error:
        # SystemExit too: the thread that called would end without a word.
        cause = cause_of(error)
        return Outcome(cause, str(error) if cause == "stopped" else explain(error))


def cause_of(error: BaseException) -> Cause:
    """Return the cause that the driver's budgets know for an exception."""
    if isinstance(error, ConfigError):
        return "config"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if isinstance(error, ManyworldsError):
        return "error"
    # Imported here: only now is it sure that an attempt ran, which needs Torch anyway.
    import torch

    from workers.world import Stopped

    if isinstance(error, Stopped):
        return "stopped"
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return "out_of_memory"
    return "error"


def explain(error: BaseException) -> str:
    """Return one message for a user; an error that nobody foresaw says where it arose."""
    text = str(error).strip()
    if isinstance(error, ManyworldsError):
        return text
    frames = extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text or 'no message'}{place}"
