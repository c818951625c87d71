"""The one thread pool that computes: chunks of fixed size, any number of threads.

Torch's own threads are switched off inside the pool. Splitting the work here
keeps a chunk's data in its core's cache from one operation to the next, leaves
no spinning OpenMP threads behind, and makes results independent of how many
threads there are, because the chunks are.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

_COPIED = 1 << 22
"""Numbers in one task of a copy."""

Task = tuple[Callable[..., None], tuple[Any, ...]]


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Threads that work through lists of tasks.

    Args:
        threads: how many; 0 takes one for each CPU that this process may use.
    """

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads or available_cpus()
        self._executor = ThreadPoolExecutor(
            self.threads,
            thread_name_prefix="manyworlds-compute",
            initializer=torch.set_num_threads,
            initargs=(1,),
        )

    def run(self, function: Callable[..., None], chunks: Sequence[tuple[Any, ...]]) -> None:
        """Call `function(*chunk)` for every chunk and return when all are done."""
        self.run_tasks([(function, chunk) for chunk in chunks])

    def run_tasks(self, tasks: Sequence[Task]) -> None:
        """Run unlike tasks side by side and return when all are done.

        Raises:
            Exception: what a failing task raised; no task runs any more by then.
        """
        queue = itertools.count()

        def work() -> None:
            while (position := next(queue)) < len(tasks):
                function, arguments = tasks[position]
                function(*arguments)

        workers = min(self.threads, len(tasks))
        futures = [self._executor.submit(work) for _ in range(workers)]
        wait(futures)
        for future in futures:
            future.result()

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy into the first tensor of each pair, which is contiguous, the equally big second."""
        chunks = [
            (target.view(-1)[start:stop], source.view(-1)[start:stop])
            for target, source in pairs
            for start, stop in spans(source.numel(), _COPIED)
        ]
        self.run(_copy, chunks)

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def share(
    pool: Pool | None, function: Callable[..., None], chunks: Sequence[tuple[Any, ...]]
) -> None:
    """Call `function(*chunk)` for every chunk, in this thread if there is no pool or one chunk.

    A task of a pool must not wait for others of the same pool; and one chunk has none to share.
    """
    if pool is None or len(chunks) == 1:
        for chunk in chunks:
            function(*chunk)
    else:
        pool.run(function, chunks)


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """Cut [0, length) into (start, stop) pairs of `size`, the last one shorter."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)
