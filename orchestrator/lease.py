"""Who drives a run: advice that keeps two drivers from working on one run by mistake.

Object stores have no conditional put, so a lease cannot be safe; safety comes
from the attempts' folders. The owner writes the lease anew at intervals, from a
thread of its own, whatever else it is busy with. The lease has lapsed once it
was not written for its whole term on the reader's own clock, so that clocks may
differ between machines.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from workers.errors import RunError, StorageError
from workers.storage import RunPaths, Storage

TERM = 30.0
"""Seconds without a sign of life after which a lease has lapsed."""
INTERVAL = TERM / 3
"""Seconds between two signs of life."""
_LOOKS = 10
"""How often a reader looks at another's lease within its term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A driver's process."""

    host: str
    boot: str
    """Identifies host, boot and process namespace; empty where the system does not tell."""
    pid: int
    started: str
    """When the process started, in the system's own count; tells it from a later one of its pid."""
    token: str
    since: str
    """UTC, ISO 8601."""
    beat: int = 0
    """Counts up with every renewal."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lease:
    """The right to drive a run, as long as it is entered: `with Lease(storage) as lease`.

    Args:
        storage: the run's.
        take_over: take the lease whoever has it.
        clock: seconds, never set back.
        sleep: waits for seconds.
        wait: waits until an event is set, for seconds at most; returns whether it is.

    Raises:
        RunError: on entering, if another driver is alive; it names that one.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        take_over: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._storage = storage
        self._take_over = take_over
        self._clock = clock
        self._sleep = sleep
        self._owner = _this_process()
        self._wait = wait
        self._left = threading.Event()
        self._lost: Owner | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def token(self) -> str:
        """What tells this driver from any other of the run."""
        return self._owner.token

    def __enter__(self) -> Lease:
        other = self._read()
        if other and not self._take_over and not self._is_gone(other):
            raise RunError(
                f"{self._storage.uri}: expected a run that nobody drives, found a driver:"
                f" {other}; wait for it or stop it, or take its place with --take-over"
            )
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        # Storage that does not answer must not keep the process: a lease that is left behind
        # lapses, and on this host is seen to be a dead process's.
        self._thread.join(TERM)
        with contextlib.suppress(StorageError):
            if self._is_mine(self._read()):
                self._storage.delete(RunPaths.lease)

    def renew(self) -> None:
        """Make sure that the lease is still held; costs nothing, so call it often.

        Raises:
            RunError: another driver took over.
        """
        if self._lost:
            raise RunError(
                f"{self._storage.uri}: expected to drive this run still, found another driver:"
                f" {self._lost}; it goes on with the run, this one ends"
            )

    def _keep(self) -> None:
        while not self._lost and not self._wait(self._left, INTERVAL):
            # Storage that cannot be reached for a while, or no memory for a moment, does not end
            # the driver: the lease is advice, and what the driver does next will tell.
            with contextlib.suppress(Exception):
                self._beat()

    def _beat(self) -> None:
        other = self._read()
        if other and not self._is_mine(other):
            self._lost = other
        else:
            self._write()

    def _write(self) -> None:
        self._owner = replace(self._owner, beat=self._owner.beat + 1)
        self._storage.write_json(RunPaths.lease, asdict(self._owner))

    def _read(self) -> Owner | None:
        return owner_of(self._storage)

    def _is_mine(self, owner: Owner | None) -> bool:
        return owner is not None and owner.token == self._owner.token

    def _is_gone(self, other: Owner) -> bool:
        alive = is_alive(other)
        return self._has_lapsed(other) if alive is None else not alive

    def _has_lapsed(self, other: Owner) -> bool:
        """Watch another machine's lease for its term; return whether it never changed."""
        for _ in self._looks():
            if self._read() != other:
                return self._read() is None
        return True

    def _looks(self) -> Iterator[None]:
        end = self._clock() + TERM
        while self._clock() < end:
            self._sleep(TERM / _LOOKS)
            yield


def owner_of(storage: Storage) -> Owner | None:
    """Return the driver that a run's lease names, or None; changes nothing.

    Raises:
        StorageError: the lease is altered.
    """
    try:
        values = storage.read_json(RunPaths.lease)
    except StorageError:
        # Asked afterwards: a driver may leave at any moment.
        if storage.exists(RunPaths.lease):
            raise
        return None
    kinds = {item.name: int if item.name in ("pid", "beat") else str for item in fields(Owner)}
    fits = {name: type(value) for name, value in values.items()} == kinds
    if not fits or values["pid"] < 1 or values["beat"] < 0:
        raise StorageError(
            f"{storage.where(RunPaths.lease)}: expected a lease, found {values};"
            " remove that file if no other driver is at work"
        )
    return Owner(**values)


def is_alive(owner: Owner) -> bool | None:
    """Return whether a driver's process is alive; None where this host cannot tell."""
    if not owner.boot or owner.boot != _boot():
        return None
    return _started(owner.pid) == owner.started


def _this_process() -> Owner:
    pid = os.getpid()
    return Owner(
        host=platform.node(),
        boot=_boot(),
        pid=pid,
        started=_started(pid),
        token=secrets.token_hex(8),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _boot() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """Return the start time of a process, or nothing if there is none."""
    with contextlib.suppress(OSError):
        # The command's name in parentheses may hold blanks: count from its end.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
