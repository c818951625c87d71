"""Runs an iterator ahead of its consumer, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.05
_LEAVE_SECONDS = 2.0
"""How long the end of the thread is waited for; one that waits for storage cannot be woken."""


def prefetch(
    items: Iterable[T], depth: int, *, waiting: Callable[[], None] = lambda: None
) -> Generator[T, None, None]:
    """Yield `items` in order while a thread keeps up to `depth` of them ready.

    An error of the iterator is raised where its item would have come. When the
    consumer closes the generator, the thread ends, after the item that it is at.

    Args:
        items: what is iterated over in the thread.
        depth: how many are kept ready.
        waiting: called again and again while none is ready; what it raises ends the wait.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[bool, T | BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    break
            else:
                put((False, None))
        except BaseException as error:
            put((False, error))
        finally:
            # A nested prefetch ends with the iterator that holds it.
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="manyworlds-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                more, item = ready.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                waiting()
                continue
            if not more:
                if item is not None:
                    raise item  # type: ignore[misc]
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(_LEAVE_SECONDS)
