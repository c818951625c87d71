"""Requests that come at the same time, answered together."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):
    """More requests wait than may."""


@dataclass(frozen=True, slots=True)
class _Asked(Generic[Kind, Item, Result]):
    kind: Kind
    item: Item
    size: int
    answer: asyncio.Future[Result]


class Batcher(Generic[Kind, Item, Result]):
    """Collects what comes in while a batch is being answered, and answers that next.

    So nothing waits for company: a request that comes alone is answered at once, and the more
    come, the larger the batches.

    Args:
        answer: of items of one kind, in their order; called by the executor.
        executor: that calls it.
        most: sizes of items in one batch together; an item that is larger goes alone.
        waiting: items that may wait.
    """

    def __init__(
        self,
        answer: Callable[[Kind, list[Item]], list[Result]],
        executor: Executor,
        *,
        most: int,
        waiting: int,
    ) -> None:
        self._answer = answer
        self._executor = executor
        self._most = most
        self._most_waiting = waiting
        self._queue: deque[_Asked[Kind, Item, Result]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def ask(self, kind: Kind, item: Item, *, size: int = 1) -> Result:
        """Return the answer to an item; items of one kind may be answered together.

        Raises:
            Busy: too many wait already.
            Exception: what the answer raised, for this item alone.
        """
        if len(self._queue) >= self._most_waiting:
            raise Busy(f"{len(self._queue)} requests wait already")
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        asked = _Asked(kind, item, size, answer)
        self._queue.append(asked)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await asked.answer

    async def close(self) -> None:
        """Stop; those that wait, or whose answer is being made, are told that nobody answers."""
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
        while self._queue:
            self._queue.popleft().answer.cancel()

    async def _run(self) -> None:
        while self._queue:
            batch = self._next()
            try:
                if len(batch) > 1 and await self._answered(batch):
                    continue
                # One at a time, so that what is wrong with one is no other's trouble.
                for asked in batch:
                    await self._alone(asked)
            finally:
                for asked in batch:
                    asked.answer.cancel()

    def _next(self) -> list[_Asked[Kind, Item, Result]]:
        """Take the oldest, and whatever waits that fits to it."""
        first = self._queue.popleft()
        batch, size, others = [first], first.size, deque[_Asked[Kind, Item, Result]]()
        while self._queue:
            asked = self._queue.popleft()
            if asked.answer.done():
                # Whoever asked has gone.
                continue
            if asked.kind == first.kind and size + asked.size <= self._most:
                batch.append(asked)
                size += asked.size
            else:
                others.append(asked)
        self._queue = others
        return batch

    async def _answered(self, batch: list[_Asked[Kind, Item, Result]]) -> bool:
        try:
            found = await self._call(batch)
        except Exception:
            return False
        for asked, result in zip(batch, found, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(result)
        return True

    async def _alone(self, asked: _Asked[Kind, Item, Result]) -> None:
        if asked.answer.done():
            return
        try:
            (result,) = await self._call([asked])
        except Exception as error:
            if not asked.answer.done():
                asked.answer.set_exception(error)
            return
        if not asked.answer.done():
            asked.answer.set_result(result)

    async def _call(self, batch: list[_Asked[Kind, Item, Result]]) -> list[Result]:
        items = [asked.item for asked in batch]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._answer, batch[0].kind, items)
