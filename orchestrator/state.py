"""The states of a world and of the attempts at it, as they stand in state.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from workers.errors import StorageError
from workers.storage import RunPaths

Status = Literal["pending", "running", "done", "failed"]
Cause = Literal["done", "stopped", "preemption", "error", "out_of_memory", "hung", "data", "config"]
"""How an attempt ended."""


def moment(text: str | None) -> datetime | None:
    """Return an ISO 8601 time with its zone in UTC; None for none, and for what is no such time."""
    try:
        found = datetime.fromisoformat(text or "")
        # Of the years that there are in UTC too.
        return found.astimezone(UTC) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One actor's try at one world."""

    name: str
    """Number and random token, such as 03-x7f2; also the name of its folder."""
    started_at: str
    """UTC, ISO 8601."""
    ended_at: str | None = None
    cause: Cause | None = None
    """None while it runs."""
    message: str = ""
    """What to tell a user about its end."""
    node: str | None = None
    """The machine that it ran on."""
    steps: int = 0
    """Steps of the world's furthest committed checkpoint when the attempt ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldState:
    """How far one world is."""

    index: int
    status: Status = "pending"
    attempts: tuple[Attempt, ...] = ()
    """Oldest first."""
    winner: str | None = None
    """The attempt whose `final/` counts; set if and only if `status` is done."""
    forgiven: int = 0
    """How many of the oldest attempts count against no budget: somebody asked for the world
    again after they had failed it."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any], where: str) -> WorldState:
        """Return the state that `to_dict` wrote.

        Args:
            values: what the file holds.
            where: the words that name it in an error.

        Raises:
            StorageError: the values are not those of a state.
        """
        read = _Fields(values, where)
        attempts = read.value("attempts", list)
        state = WorldState(
            index=read.value("index", int),
            status=read.choice("status", get_args(Status)),
            attempts=tuple(_attempt(item, where) for item in attempts),
            winner=read.value("winner", str, type(None)),
            forgiven=read.value("forgiven", int),
        )
        if (state.status == "done") != (state.winner is not None):
            raise _altered(where, f"status {state.status} with winner {state.winner}")
        if state.winner is not None and not RunPaths.is_attempt(state.winner):
            raise _altered(where, f"winner {state.winner!r}")
        return state


def _attempt(values: Any, where: str) -> Attempt:
    if not isinstance(values, dict):
        raise _altered(where, f"attempt {values!r}")
    read = _Fields(values, where)
    if not RunPaths.is_attempt(name := read.value("name", str)):
        raise _altered(where, f"attempt {name!r}")
    return Attempt(
        name=name,
        started_at=read.value("started_at", str),
        ended_at=read.value("ended_at", str, type(None)),
        cause=read.choice("cause", (None, *get_args(Cause))),
        message=read.value("message", str),
        node=read.value("node", str, type(None)),
        steps=read.value("steps", int),
    )


class _Fields:
    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def value(self, name: str, *kinds: type) -> Any:
        value = self._values.get(name)
        if type(value) not in kinds:
            raise _altered(self._where, f"{name} = {value!r}")
        return value

    def choice(self, name: str, allowed: tuple[Any, ...]) -> Any:
        if (value := self._values.get(name)) not in allowed:
            raise _altered(self._where, f"{name} = {value!r}")
        return value


def _altered(where: str, found: str) -> StorageError:
    return StorageError(
        f"{where}: expected the state of a world, found {found}; the file was altered: restore"
        " it, or remove it and train again, which picks finished worlds and checkpoints up"
    )
