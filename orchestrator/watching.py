"""A run looked at again and again from its storage, by whoever can read that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from orchestrator import api
from orchestrator.api import RunStatus
from orchestrator.lease import TERM

EVERY = 2.0
"""Seconds between two looks."""


def looks(
    run: str,
    *,
    every: float = EVERY,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[RunStatus]:
    """Yield how far a run is, until all of its worlds are done or nobody drives it any more.

    A driver of which this host cannot tell whether it is alive counts as gone once it gave no
    sign of life for the term of its lease.

    Args:
        run: its folder or URI.
        every: seconds between two looks.
        clock: seconds, never set back.
        sleep: waits for seconds.

    Raises:
        RunError: there is no such run.
        StorageError: a file of the run is altered.
    """
    beat, heard = None, clock()
    while True:
        found = api.status(run)
        yield found
        if found.driver and found.driver.beat != beat:
            beat, heard = found.driver.beat, clock()
        silent = found.alive is None and clock() - heard >= TERM
        if is_done(found) or not found.driven or silent:
            return
        sleep(every)


def is_done(found: RunStatus) -> bool:
    """Return whether all worlds of a run are done."""
    return all(state.status == "done" for state in found.states)
