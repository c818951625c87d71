"""Who drives a run: advice that keeps two drivers from working on one run by mistake.

Object stores have no conditional put, so a lease cannot be safe; safety comes
from the attempts' folders. The owner writes the lease anew at intervals. It has
lapsed once it was not written for its whole term on the reader's own clock, so
that clocks may differ between machines.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from workers.errors import RunError, StorageError
from workers.storage import RunPaths, Storage

TERM = 30.0
"""Seconds without a sign of life after which a lease has lapsed."""
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
    ) -> None:
        self._storage = storage
        self._take_over = take_over
        self._clock = clock
        self._sleep = sleep
        self._owner = _this_process()
        self._renewed = clock()

    def __enter__(self) -> Lease:
        other = self._read()
        if other and not self._take_over and not self._is_gone(other):
            raise RunError(
                f"{self._storage.uri}: expected a run that nobody drives, found a driver:"
                f" {other}; wait for it or stop it, or take its place with --take-over"
            )
        self._write()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(StorageError):
            if self._is_mine(self._read()):
                self._storage.delete(RunPaths.lease)

    def renew(self) -> None:
        """Give a sign of life, if it is time for one; call this often.

        Raises:
            RunError: another driver took over.
        """
        if self._clock() - self._renewed < TERM / 3:
            return
        other = self._read()
        if other and not self._is_mine(other):
            raise RunError(
                f"{self._storage.uri}: expected to drive this run still, found another driver:"
                f" {other}; it goes on with the run, this one ends"
            )
        self._write()

    def _write(self) -> None:
        self._owner = replace(self._owner, beat=self._owner.beat + 1)
        self._storage.write_json(RunPaths.lease, asdict(self._owner))
        self._renewed = self._clock()

    def _read(self) -> Owner | None:
        if not self._storage.exists(RunPaths.lease):
            return None
        values = self._storage.read_json(RunPaths.lease)
        kinds = {item.name: int if item.name in ("pid", "beat") else str for item in fields(Owner)}
        if {name: type(value) for name, value in values.items()} != kinds:
            raise StorageError(
                f"{self._storage.where(RunPaths.lease)}: expected a lease, found {values};"
                " remove that file if no other driver is at work"
            )
        return Owner(**values)

    def _is_mine(self, owner: Owner | None) -> bool:
        return owner is not None and owner.token == self._owner.token

    def _is_gone(self, other: Owner) -> bool:
        if other.boot and other.boot == self._owner.boot:
            return _started(other.pid) != other.started
        return self._has_lapsed(other)

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
