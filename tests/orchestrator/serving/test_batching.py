"""Who waits for whom, and who is told what when the service ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator.serving.batching import Batcher

PATIENCE = 60.0


class Held:
    """Answers with what it was asked, once it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.begun = threading.Event()

    def __call__(self, kind: str, items: list[int]) -> list[int]:
        self.begun.set()
        assert self.may.wait(PATIENCE)
        return items


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as found:
        yield found


def test_the_end_is_told_to_all_that_have_no_answer(executor: ThreadPoolExecutor) -> None:
    held = Held()

    async def asked() -> list[Any]:
        batcher = Batcher(held, executor, most=2, waiting=8)
        asking = [asyncio.create_task(batcher.ask("one", number)) for number in range(4)]
        await asyncio.to_thread(held.begun.wait, PATIENCE)
        await batcher.close()
        try:
            together = asyncio.gather(*asking, return_exceptions=True)
            return await asyncio.wait_for(together, PATIENCE)
        finally:
            held.may.set()

    found = asyncio.run(asked())
    assert [type(one) for one in found] == [asyncio.CancelledError] * 4
