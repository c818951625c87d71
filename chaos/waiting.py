"""Waiting for real events, never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

_LOOK = 0.02
"""Seconds between two looks."""


class Waited(AssertionError):
    """An event that did not come in time."""


def wait_for(what: str, look: Callable[[], Found | None], seconds: float = 120.0) -> Found:
    """Return what `look` finds as soon as it finds something.

    Args:
        what: the words for it.
        look: returns something true once it is there.
        seconds: to wait at most.

    Raises:
        Waited: it did not come.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(_LOOK)
    raise Waited(f"waited {seconds:g} s in vain for {what}")
