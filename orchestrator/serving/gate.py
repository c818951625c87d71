"""What every request passes before anything is made of it: its size, its pace, its token."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = frozenset({"/", "/page.css", "/page.js", "/about", "/health", "/ready"})
"""What needs no token: the page, which asks for one, and what load balancers look at."""


class Gate:
    """Lets requests pass that are small, quick and, where that is asked for, have the token.

    A body is here in full before the request goes on, so that a slow client holds nothing but its
    own connection and `most_bytes`.

    Args:
        app: to go on to.
        token: that `Authorization: Bearer` must hold; None: none is needed.
        most_bytes: of a body.
        body_seconds: within which the body must be there.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, most_bytes: int, body_seconds: float
    ) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._most_bytes = most_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] not in OPEN and not self._may(scope):
            await _refuse(
                send, 401, "expected the header Authorization: Bearer TOKEN, found another or none",
                {"www-authenticate": "Bearer"},
            )  # fmt: skip
            return
        try:
            body = await asyncio.wait_for(self._body(scope, receive), self._body_seconds)
        except TimeoutError:
            await _refuse(
                send, 408, f"expected the body within {self._body_seconds:g} s, found it unfinished"
            )
            return
        except _TooLarge:
            await _refuse(
                send, 413, f"expected a body of at most {self._most_bytes:,} bytes, found more;"
                " ask for fewer queries at a time",
            )  # fmt: skip
            return
        if body is not None:
            await self._app(scope, _told(body, receive), send)

    def _may(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        found = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = found.partition(b" ")
        return kind.lower() == b"bearer" and secrets.compare_digest(token.strip(), self._token)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body; None: whoever asked has gone."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._most_bytes:
            raise _TooLarge
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > self._most_bytes:
                raise _TooLarge
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)


class _TooLarge(Exception):
    pass


def _told(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that is here already, and then what else is received."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _refuse(
    send: Send, status: int, error: str, headers: dict[str, str] | None = None
) -> None:
    body = json.dumps({"error": error}).encode()
    told: Any = {"content-type": "application/json", "content-length": str(len(body))}
    told |= {"connection": "close", **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
