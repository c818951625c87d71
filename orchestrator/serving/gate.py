"""What every request passes before anything is made of it: its size, its pace, its token."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = frozenset({"/", "/page.css", "/page.js", "/about", "/health", "/ready"})
"""What needs no token: the page, which asks for one, and what load balancers look at."""
TOO_MANY = "expected fewer requests at a time, found that too many wait already"


class Gate:
    """Lets requests pass that are small, quick, not too many and have the token, if one is needed.

    A body is here in full before the request goes on, so that a slow client holds nothing but its
    own connection and `most_bytes`.

    Args:
        app: to go on to.
        token: that `Authorization: Bearer` must hold; None: none is needed.
        most_bytes: of a body.
        body_seconds: within which the body must be there.
        most: requests at a time, those apart that look at what is open; None: any number.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        most_bytes: int,
        body_seconds: float,
        most: int | None = None,
    ) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._most_bytes = most_bytes
        self._body_seconds = body_seconds
        self._most = most
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_open = scope["path"] in OPEN
        if not is_open and not self._may(scope):
            await refuse(
                send, 401, "expected the header Authorization: Bearer TOKEN, found another or none",
                {"www-authenticate": "Bearer"},
            )  # fmt: skip
            return
        if is_open:
            await self._pass(scope, receive, send)
            return
        if self._most is not None and self._now >= self._most:
            await refuse(send, 429, TOO_MANY, {"retry-after": "1"})
            return
        self._now += 1
        try:
            await self._pass(scope, receive, send)
        finally:
            self._now -= 1

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is small and quick enough, or refuse it."""
        try:
            kept = await asyncio.wait_for(self._body(scope, receive), self._body_seconds)
        except TimeoutError:
            await refuse(
                send, 408, f"expected the body within {self._body_seconds:g} s, found it unfinished"
            )
            return
        if kept is None or not kept.whole:
            await refuse(
                send, 413, f"expected a body of at most {self._most_bytes:,} bytes, found more;"
                " ask for fewer queries at a time",
            )  # fmt: skip
            return
        await self._app(scope, replay(kept.messages, receive), send)

    def _may(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        found = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = found.partition(b" ")
        return kind.lower() == b"bearer" and secrets.compare_digest(token.strip(), self._token)

    async def _body(self, scope: Scope, receive: Receive) -> Kept | None:
        """Return the body; None: its length is said to be more than may be."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._most_bytes:
            return None
        return await read_body(receive, self._most_bytes)


class Kept(NamedTuple):
    """A request's body, or the beginning of one that is too large to keep."""

    messages: list[Message]
    """As they were received."""
    whole: bool


async def read_body(receive: Receive, most_bytes: int) -> Kept:
    """Return a body of at most so many bytes, or its beginning and one message more."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if size > most_bytes:
            return Kept(messages, whole=False)
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return Kept(messages, whole=True)


def replay(messages: Sequence[Message], receive: Receive) -> Receive:
    """Return what gives messages that were received already, and then what else is received."""
    waiting = deque(messages)

    async def again() -> Message:
        return waiting.popleft() if waiting else await receive()

    return again


async def refuse(
    send: Send, status: int, error: str, headers: dict[str, str] | None = None
) -> None:
    """Answer with a problem in JSON, and close the connection."""
    body = json.dumps({"error": error}).encode()
    told: Any = {"content-type": "application/json", "content-length": str(len(body))}
    told |= {"connection": "close", **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
