"""A stop asked for from anywhere: a file in the run's folder that its driver looks for.

The request names the driver that it is meant for, so that it never stops a later one.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime

from orchestrator.lease import TERM, Owner, is_alive, owner_of
from orchestrator.run import Run
from orchestrator.words import listed, plural
from workers.errors import RunError, StorageError
from workers.storage import RunPaths, Storage

LOOK_EVERY = 2.0
"""Seconds between two looks: of a driver for a request, of the one who asked for its effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Somebody's wish that a driver stops."""

    token: str
    """Of the driver's lease."""
    host: str
    """The machine that it was asked from."""
    at: str
    """UTC, ISO 8601."""

    def __str__(self) -> str:
        return f"by somebody on {self.host} at {self.at}"


def request_of(storage: Storage, token: str) -> Request | None:
    """Return the request to stop the driver whose lease has `token`, or None.

    A file that is no request asks for nothing.
    """
    with contextlib.suppress(StorageError):
        if storage.exists(RunPaths.stop):
            values = storage.read_json(RunPaths.stop)
            kinds = {item.name: str for item in fields(Request)}
            if {name: type(value) for name, value in values.items()} == kinds:
                request = Request(**values)
                return request if request.token == token else None
    return None


def ask(storage: Storage, token: str) -> None:
    """Ask the driver whose lease has `token` to stop."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    request = Request(token=token, host=platform.node(), at=at)
    storage.write_json(RunPaths.stop, asdict(request))


def withdraw(storage: Storage, token: str) -> None:
    """Remove a request that was meant for the driver whose lease has `token`."""
    with contextlib.suppress(StorageError):
        if request_of(storage, token):
            storage.delete(RunPaths.stop)


class Requests:
    """The requests to stop one driver, which looks for them now and then.

    Args:
        storage: the run's.
        token: of the driver's lease.
        clock: seconds, never set back.
    """

    def __init__(
        self, storage: Storage, token: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage = storage
        self._token = token
        self._clock = clock
        self._looked: float | None = None
        self.found: Request | None = None

    def look(self) -> Request | None:
        """Return the request if there is one; reads storage if it is time to, so call it often."""
        now = self._clock()
        due = self._looked is None or now - self._looked >= LOOK_EVERY
        if self.found is None and due:
            self._looked = now
            self.found = request_of(self._storage, self._token)
        return self.found


def wait_until_left(
    run: Run,
    owner: Owner,
    tell: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once a driver has left its run.

    Args:
        run: the run.
        owner: the driver.
        tell: gets what there is to wait for, whenever that changes.
        clock: seconds, never set back.
        sleep: waits for seconds.

    Raises:
        RunError: the driver died.
    """
    told, beat, heard = "", owner.beat, clock()
    while (now := owner_of(run.storage)) and now.token == owner.token:
        if now.beat != beat:
            beat, heard = now.beat, clock()
        _check_alive(run, now, clock() - heard)
        if (line := _left_to_do(run, owner)) != told:
            told = line
            tell(line)
        sleep(LOOK_EVERY)


def _check_alive(run: Run, owner: Owner, silence: float) -> None:
    alive = is_alive(owner)
    if alive is False or (alive is None and silence >= TERM):
        found = f"no sign of life for {silence:.0f} s" if alive is None else "that it is dead"
        raise RunError(
            f"{run.uri}: expected its driver to leave, {owner}; found {found}. Finished worlds and"
            f" committed checkpoints are kept; carry on with 'manyworlds resume {run.uri}'"
        )


def _left_to_do(run: Run, owner: Owner) -> str:
    running = [state.index for state in run.states() if state.status == "running"]
    worlds = f"{plural(len(running), 'world')} still running ({listed(running)})"
    return f"waiting for {owner}: {worlds if running else 'no world runs any more'}"
