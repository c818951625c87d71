"""Requests that a replica lost go to another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from orchestrator.serving import front
from orchestrator.serving.front import Again
from orchestrator.serving.settings import ServingConfig

SCOPE = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"a", b"b")]}


class Replicas:
    """Answers by a script: a status, or None: dies after the first half."""

    def __init__(self, *script: int | None) -> None:
        self.script = list(script)
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        self.bodies.append(body)
        # What stands before it writes into its scope.
        scope["headers"].append((b"seen", b"once"))
        assert len(scope["headers"]) == 2
        status = self.script.pop(0)
        await send({"type": "http.response.start", "status": status or 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        if status is not None:
            await send({"type": "http.response.body", "body": b"and half"})


def answered(replicas: Any, body: Sequence[bytes], most_bytes: int = 100) -> list[Message]:
    """Return what a client gets that sends a body in these pieces."""
    return sent_by(Again(replicas, most_bytes=most_bytes), body)


def sent_by(app: Any, body: Sequence[bytes]) -> list[Message]:
    """Return what a client gets of an application."""
    sent: list[Message] = []
    pieces: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": number < len(body) - 1}
        for number, piece in enumerate(body)
    ]

    async def receive() -> Message:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(dict(SCOPE), receive, send))
    return sent


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_PAUSE", 0.0)


def body_of(sent: Sequence[Any]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("script", [(200,), (500, 200), (None, 503, 200), (None, None, 404)])
def test_the_first_whole_answer_counts(script: tuple[int | None, ...]) -> None:
    replicas = Replicas(*script)
    sent = answered(replicas, [b"que", b"ry"])
    assert sent[0]["status"] == script[-1]
    assert body_of(sent) == b"halfand half"
    assert replicas.bodies == [b"query"] * len(script)


def test_in_the_end_the_last_failure_is_told() -> None:
    assert answered(Replicas(*[500] * front.TRIES), [b""])[0]["status"] == 500


def test_an_answer_that_never_comes_whole_is_said_to_be_missing() -> None:
    sent = answered(Replicas(*[None] * front.TRIES), [b""])
    assert sent[0]["status"] == 503
    assert "found every replica gone" in json.loads(body_of(sent))["error"]


@pytest.mark.parametrize(
    ("status", "told"), [(429, "expected fewer requests"), (503, "found every replica gone")]
)
def test_what_ray_refuses_in_plain_text_is_told_in_json(status: int, told: str) -> None:
    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"Request dropped due to backpressure"})

    sent = answered(ray, [b"query"])
    assert sent[0]["status"] == status
    assert told in json.loads(body_of(sent))["error"]
    assert (b"retry-after", b"1") in sent[0]["headers"] or status != 429


def test_headers_that_ray_cannot_read_are_refused() -> None:
    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        b"\xff".decode()

    sent = answered(ray, [b"query"])
    assert sent[0]["status"] == 400
    assert "expected headers in UTF-8" in json.loads(body_of(sent))["error"]


def test_nobody_else_is_asked_for_a_client_that_is_gone() -> None:
    asked = []

    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        # As Ray does it: hears that the client is gone, and gives up without an answer.
        while (message := await receive())["type"] != "http.disconnect":
            asked.append(message["body"])

    answered(ray, [b"query"])
    assert asked == [b"query"]


def test_large_bodies_pass_as_they_come_and_once() -> None:
    replicas = Replicas(500, 200)
    sent = answered(replicas, [b"0123456789"] * 3, most_bytes=15)
    assert sent[0]["status"] == 500
    assert replicas.bodies == [b"0123456789" * 3]


def test_the_gate_comes_first_and_knows_how_large_bodies_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(front.MOST_BYTES, "15")
    replicas = Replicas(200)
    app: Any = replicas
    for middleware in front.middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    assert sent_by(app, [b"0123456789"] * 3)[0]["status"] == 413
    assert sent_by(app, [b"0123456789"])[0]["status"] == 200
    assert replicas.bodies == [b"0123456789"]


def test_the_gate_knows_how_long_bodies_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in front.limits(ServingConfig(body_seconds=0.25, most_bytes=2000)).items():
        monkeypatch.setenv(name, value)
    (_, gate) = front.middlewares()
    assert (gate.kwargs["body_seconds"], gate.kwargs["most_bytes"]) == (0.25, 2000)
