"""What a process counts of what it served, as Prometheus reads it."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX = "manyworlds_serve_"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Meters:
    """The numbers of one process."""

    kind = CONTENT_TYPE_LATEST
    """The content type of `text`."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            f"{_PREFIX}requests", "By path and status", ("path", "status"), registry=registry
        )
        self._seconds = Histogram(
            f"{_PREFIX}request_seconds",
            "From the whole body to the answer",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._queries = Counter(f"{_PREFIX}queries", "That were answered", registry=registry)
        self._batches = Histogram(
            f"{_PREFIX}batch", "Queries answered together", buckets=_SIZES, registry=registry
        )
        self._computing = Histogram(
            f"{_PREFIX}batch_seconds", "Of a batch", buckets=_SECONDS, registry=registry
        )
        self._ensemble = Gauge(
            f"{_PREFIX}ensemble", "1: the one that is served", ("digest",), registry=registry
        )
        self._trouble = Gauge(
            f"{_PREFIX}trouble",
            "1: the run's newest ensemble cannot be opened",
            registry=registry,
        )

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def answered(self, queries: int) -> None:
        """Count queries."""
        self._queries.inc(queries)

    def batch(self, queries: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(queries)
        self._computing.observe(seconds)

    def serves(self, digest: str) -> None:
        """Take in which ensemble is served."""
        self._ensemble.clear()
        self._ensemble.labels(digest).set(1)

    def troubled(self, there_is: bool) -> None:
        """Take in whether the newest ensemble cannot be opened."""
        self._trouble.set(there_is)

    def text(self) -> bytes:
        """Return all numbers."""
        return generate_latest(self._registry)


class Metered:
    """Times requests.

    Args:
        app: that answers.
        meters: that count.
    """

    def __init__(self, app: ASGIApp, *, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            # Paths that there are not would be as many as somebody likes.
            path = getattr(scope.get("route"), "path", "other")
            self._meters.request(path, status, time.perf_counter() - began)
