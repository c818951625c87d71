"""One piece of work beside the caller, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future


def start(work: Callable[[], None], name: str) -> Future[None]:
    """Begin `work` in a thread called `name`; the future says when and how it ended.

    The thread is a daemon: a process that is told to go does not wait for it. Whoever needs
    the work done waits for the future.
    """
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
