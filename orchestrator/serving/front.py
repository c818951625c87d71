"""What stands before the replicas, in the process that listens: a gate, and another try.

Ray Serve's proxy makes it part of itself when the environment variable
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares`, for all that it serves; see
`executors.serve`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import MutableMapping
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.serving.gate import TOO_MANY, Gate, read_body, refuse, replay
from orchestrator.serving.settings import ServingConfig

MOST_BYTES = "MANYWORLDS_SERVE_MOST_BYTES"
"""The environment variable with the bytes of a body, at most; unset: as the settings have it."""
BODY_SECONDS = "MANYWORLDS_SERVE_BODY_SECONDS"
"""The one with the seconds within which a body must be there, likewise."""
TRIES = 6
_PAUSE = 0.05
"""Seconds before the second try; twice as long before each that follows."""


class Again:
    """Asks another replica when one fails or dies with a request: answers change nothing.

    Requests with larger bodies than `most_bytes` go once, as they come: a replica refuses them.

    Args:
        app: that asks a replica, and answers 500 where it is lost.
        most_bytes: of a body that is kept for another try.
        tries: altogether.
    """

    def __init__(self, app: ASGIApp, *, most_bytes: int, tries: int = TRIES) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._tries = tries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gone = False

        async def heard() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        kept = await read_body(heard, self._most_bytes)
        tries = self._tries if kept.whole else 1
        for number in range(1, tries + 1):
            # A copy: what answers writes into it.
            asked: MutableMapping[str, Any] = {**scope, "headers": list(scope["headers"])}
            answer = _Answer()
            try:
                await self._app(asked, replay(kept.messages, heard), answer)
            except UnicodeDecodeError:
                # Ray reads some headers as text.
                await refuse(send, 400, "expected headers in UTF-8, found others")
                return
            if not answer.failed or number == tries or gone:
                break
            await asyncio.sleep(_PAUSE * 2 ** (number - 1))
        if answer.plain == 429:
            await refuse(send, 429, TOO_MANY, {"retry-after": "1"})
            return
        if not answer.whole or answer.plain == 503:
            await refuse(send, 503, "expected an answer, found every replica gone; ask again")
            return
        for message in answer.messages:
            await send(message)


class _Answer:
    """Holds an answer until all of it is there: a replica may die after its first half."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def whole(self) -> bool:
        """Whether nothing of it is missing."""
        return bool(self.messages) and not self.messages[-1].get("more_body", False)

    @property
    def failed(self) -> bool:
        """Whether another replica may do better."""
        return not self.whole or self.messages[0]["status"] >= 500

    @property
    def plain(self) -> int | None:
        """The status of an answer that is plain text, as Ray's own are; None: it is none."""
        if not self.whole:
            return None
        start = self.messages[0]
        kind = dict(start["headers"]).get(b"content-type", b"")
        return int(start["status"]) if kind.startswith(b"text/plain") else None


def limits(config: ServingConfig) -> dict[str, str]:
    """Return the environment that makes these settings those of `middlewares`."""
    return {MOST_BYTES: str(config.most_bytes), BODY_SECONDS: str(config.body_seconds)}


def middlewares() -> list[Middleware]:
    """Return what Ray Serve's proxy takes up; tokens are for the replicas to look at."""
    config = ServingConfig()
    most_bytes = int(os.environ.get(MOST_BYTES) or config.most_bytes)
    seconds = float(os.environ.get(BODY_SECONDS) or config.body_seconds)
    # The proxy puts each around those before it.
    return [
        Middleware(Again, most_bytes=most_bytes),
        Middleware(Gate, token=None, most_bytes=most_bytes, body_seconds=seconds),
    ]
