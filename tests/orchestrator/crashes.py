"""A process that dies after its n-th write to storage."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from workers.storage import Storage

_WRITES = ("write_bytes", "write_file", "copy_from", "delete")


class Crash(BaseException):
    """Stands for whatever ends a process."""


class Writes:
    """Lets the process die after some number of writes to any storage."""

    def __init__(self, last: int) -> None:
        self._count = 0
        self._last = last
        self._inside = False

    def wrapped(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        def counting(*args: Any, **words: Any) -> Any:
            if self._inside:
                return write(*args, **words)
            if self._count == self._last:
                raise Crash
            self._inside = True
            try:
                result = write(*args, **words)
            finally:
                self._inside = False
            self._count += 1
            return result

        return counting


@contextmanager
def writes(last: int) -> Iterator[Writes]:
    """Let writes through; the one after the `last`, and all later ones, raise `Crash` instead."""
    counter = Writes(last)
    with pytest.MonkeyPatch.context() as patch:
        for name in _WRITES:
            patch.setattr(Storage, name, counter.wrapped(getattr(Storage, name)))
        yield counter


def crashed_after_each_write(act: Callable[[], Callable[[], Any]]) -> Iterator[int]:
    """Do something over and over, dying after 0, 1, 2 … writes, until it is done.

    Args:
        act: prepares, without dying, and returns what may die.

    Yields:
        After each death, the number of writes before it.
    """
    number = 0
    while True:
        mortal = act()
        with writes(number):
            try:
                mortal()
                return
            except Crash:
                pass
        yield number
        number += 1
