"""More requests than are answered at a time: who is refused, and who is not kept waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator.serving.answering import Answerer
from orchestrator.serving.app import make_app
from orchestrator.serving.settings import ServingConfig

PATIENCE = 60.0
PREDICT: dict[str, Any] = {"texts": ["thing1"], "k": 1}
EXPLAIN = {"text": "thing1", "class_id": 1}


class Slow:
    """Explanations that are made once they may be; all that is asked is kept, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.begun = threading.Event()
        self.may = threading.Event()
        predict, explain = Answerer.predict, Answerer.explain

        def predicted(*words: Any) -> Any:
            self.asked.append("predict")
            return predict(*words)

        def explained(*words: Any, **more: Any) -> Any:
            self.asked.append("explain")
            self.begun.set()
            assert self.may.wait(PATIENCE)
            return explain(*words, **more)

        monkeypatch.setattr(Answerer, "predict", predicted)
        monkeypatch.setattr(Answerer, "explain", explained)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


def asked(
    config: ServingConfig, slow: Slow, ask: Callable[[httpx2.AsyncClient], Awaitable[None]]
) -> None:
    """Have a client ask a service; in the end, what is slow is made too."""

    async def all_of_it() -> None:
        app = make_app(config)
        transport = httpx2.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://a") as client,
        ):
            try:
                await asyncio.wait_for(ask(client), PATIENCE)
            finally:
                slow.may.set()

    asyncio.run(all_of_it())


def test_explanations_that_wait_are_counted_and_let_queries_pass(run: Path, slow: Slow) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        explaining = [asyncio.create_task(client.post("/explain", json=EXPLAIN))]
        await asyncio.to_thread(slow.begun.wait, PATIENCE)
        # Two may wait.
        explaining += [asyncio.create_task(client.post("/explain", json=EXPLAIN)) for _ in range(3)]
        predicting = asyncio.create_task(client.post("/predict", json=PREDICT))
        done, _ = await asyncio.wait(explaining, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = [task.result() for task in done]
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "expected fewer requests" in refused.json()["error"]
        slow.may.set()
        answers = [await task for task in [*explaining, predicting]]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 429]
        assert slow.asked == ["explain", "predict", "explain", "explain"]

    asked(ServingConfig(ensemble=str(run), cpus=1, waiting=2), slow, ask)


def test_a_crowd_is_refused_in_json_and_what_is_open_answers_still(run: Path, slow: Slow) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        first = asyncio.create_task(client.post("/explain", json=EXPLAIN))
        await asyncio.to_thread(slow.begun.wait, PATIENCE)
        more = [asyncio.create_task(client.post("/predict", json=PREDICT)) for _ in range(2)]
        done, waiting = await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = [task.result() for task in done]
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "expected fewer requests" in refused.json()["error"]
        for path in ("/", "/about", "/health", "/ready"):
            assert (await client.get(path)).status_code == 200
        slow.may.set()
        assert [(await task).status_code for task in [first, *waiting]] == [200, 200]
        assert (await client.post("/predict", json=PREDICT)).status_code == 200

    asked(ServingConfig(ensemble=str(run), cpus=1, waiting=1, batch=1), slow, ask)
