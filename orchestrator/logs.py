"""What the attempts at a run's worlds wrote into their logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.run import Run
from workers.errors import RunError

_LARGEST = 64 << 20
"""Bytes of a log; attempts keep a thousand lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The end of one attempt's log."""

    world: int
    attempt: str | None
    """None: no attempt at the world wrote a log."""
    lines: tuple[str, ...] = ()
    """The last ones, oldest first; what cannot be printed is replaced."""


def read(run: Run, world: int | None, attempt: str | None, lines: int) -> list[Log]:
    """Return the ends of logs, one a world.

    Args:
        run: the run.
        world: only this one; None: all.
        attempt: only this one of the world; None: the newest that wrote a log.
        lines: of each log at most.

    Raises:
        RunError: there is no such world or attempt, or an attempt without a world.
    """
    if world is None:
        if attempt is not None:
            raise RunError(f"expected the world of attempt {attempt} too, found none; add --world")
        return [_newest(run, index, lines) for index in range(run.worlds)]
    if not 0 <= world < run.worlds:
        raise RunError(f"{run.uri}: expected a world from 0 to {run.worlds - 1}, found {world}")
    return [_newest(run, world, lines) if attempt is None else _of(run, world, attempt, lines)]


def _newest(run: Run, world: int, lines: int) -> Log:
    for attempt in reversed(run.paths.attempts(world)):
        if run.storage.exists(run.paths.log(world, attempt)):
            return _log(run, world, attempt, lines)
    return Log(world=world, attempt=None)


def _of(run: Run, world: int, attempt: str, lines: int) -> Log:
    found = run.paths.attempts(world)
    known = [name for name in found if run.storage.exists(run.paths.log(world, name))]
    if attempt not in known:
        raise RunError(
            f"{run.uri}: expected one of world {world}'s attempts with a log,"
            f" {_choices(known)}, found {attempt!r}"
        )
    return _log(run, world, attempt, lines)


def _choices(names: Sequence[str]) -> str:
    return ", ".join(names) or "of which there is none yet"


def _log(run: Run, world: int, attempt: str, lines: int) -> Log:
    data = run.storage.read_bytes(run.paths.log(world, attempt), at_most=_LARGEST)
    text = data.decode(errors="replace")
    kept = text.removesuffix("\n").split("\n")[-lines:]
    return Log(world=world, attempt=attempt, lines=tuple(map(_printable, kept)))


def _printable(line: str) -> str:
    """Return a line without what could move a terminal's cursor; tabs, as in tracebacks, widen."""
    signs = line.expandtabs()
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in signs)
