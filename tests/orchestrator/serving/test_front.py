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


def answered(replicas: Replicas, body: Sequence[bytes], most_bytes: int = 100) -> list[Message]:
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
        return pieces.pop(0)

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
