"""The web service of an ensemble: FastAPI around an `Answerer`; knows nothing of Ray."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteError

from orchestrator.ensemble.combiners import COMBINERS
from orchestrator.ensemble.ensemble import MODES
from orchestrator.serving.answering import Answerer, Answers, Explanation, Way, columns
from orchestrator.serving.batching import Batcher, Busy
from orchestrator.serving.gate import TOO_MANY, Gate
from orchestrator.serving.meters import Metered, Meters
from orchestrator.serving.requests import (
    About,
    ExplainRequest,
    ExplainResponse,
    PredictRequest,
    PredictResponse,
    Problem,
    State,
)
from orchestrator.serving.settings import ServingConfig
from workers.errors import ConfigError, DataError, ManyworldsError

_PAGE = Path(__file__).parent / "page"
_KINDS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_POLICY = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "cache-control": "no-cache",
}
_LONGEST = 120
"""Signs of what was found that a message quotes."""
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 408, 413, 422, 429, 503)
}


def make_app(config: ServingConfig, *, token: str | None = None) -> FastAPI:
    """Return the service, its ensemble opened.

    Args:
        config: validated.
        token: that requests must have; None: anybody may ask.

    Raises:
        StorageError: there is no ensemble that can be opened.
    """
    answerer = Answerer(
        config.ensemble, threads=config.cpus, device=config.device, folder=config.copies
    )
    service = _Service(config, answerer, needs_token=token is not None)
    app = FastAPI(
        title="manyworlds",
        description="The best of very many classes, by worlds that were trained apart.",
        # Their pages load what they show from elsewhere.
        docs_url=None,
        redoc_url=None,
        # A redirection would go to http, and with it the token, where TLS ends before this.
        redirect_slashes=False,
        lifespan=service.lifespan,
    )
    app.add_api_route(
        "/predict", service.predict, methods=["POST"], response_model=PredictResponse,
        responses=_REFUSALS, summary="The best classes of each query",
    )  # fmt: skip
    app.add_api_route(
        "/explain", service.explain, methods=["POST"], response_model=ExplainResponse,
        responses=_REFUSALS, summary="How each world voted on a class for a query",
    )  # fmt: skip
    app.add_api_route("/about", service.about, response_model=About, summary="What is served")
    app.add_api_route("/health", service.health, response_model=State, summary="Is it alive?")
    app.add_api_route("/ready", service.ready, response_model=State, summary="Does it answer?")
    app.add_api_route("/metrics", service.metrics, summary="Numbers for Prometheus",
                      response_class=Response)  # fmt: skip
    for name, kind in _KINDS.items():
        path = "/" if name == "page.html" else f"/{name}"
        app.add_api_route(path, _file(name, kind), include_in_schema=False)
    for error, answer in _ANSWERS.items():
        app.add_exception_handler(error, answer)
    app.add_middleware(Metered, meters=service.meters)
    app.add_middleware(
        Gate, token=token, most_bytes=config.most_bytes, body_seconds=config.body_seconds,
        most=config.most_requests,
    )  # fmt: skip
    return app


_Kind = tuple[Way, pa.Schema]
"""What queries must have in common to be answered together."""


class _Service:
    """What the routes do."""

    def __init__(self, config: ServingConfig, answerer: Answerer, *, needs_token: bool) -> None:
        self._config = config
        self._answerer = answerer
        self._needs_token = needs_token
        self.meters = Meters()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Answer, and look for newer ensembles."""
        config = self._config
        # One: an ensemble computes with all of its threads, one batch at a time.
        self._executor = ThreadPoolExecutor(1, "manyworlds-answer")
        self._batcher: Batcher[_Kind, pa.Table, bytes] = Batcher(
            self._answer, self._executor, most=config.batch, waiting=config.waiting
        )
        # One at a time, and a batch in between: however many ask for explanations.
        self._explaining: Batcher[None, Callable[[], Explanation], Explanation] = Batcher(
            _each, self._executor, most=1, waiting=config.waiting
        )
        refreshing = asyncio.create_task(self._refresh())
        self.meters.serves(self._answerer.digest)
        try:
            yield
        finally:
            refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await refreshing
            await self._batcher.close()
            await self._explaining.close()
            self._executor.shutdown()

    async def predict(self, request: PredictRequest) -> Response:
        """Return the k best of all classes for each query."""
        config, answerer = self._config, self._answerer
        _at_most("k", request.k, config.most_k)
        _at_most("queries", len(request.queries), config.most_queries)
        way = Way(request.k, request.combiner, request.mode, request.worlds)
        answerer.check(way)
        table = answerer.table(request.queries)
        body = await self._batcher.ask((way, table.schema), table, size=table.num_rows)
        self.meters.answered(table.num_rows)
        return Response(body, media_type="application/json")

    async def explain(self, request: ExplainRequest) -> dict[str, Any]:
        """Return each world's bucket of the class, its probability and its rank."""
        answerer = self._answerer
        table = answerer.table([request.query])
        found = await self._explaining.ask(
            None,
            lambda: answerer.explain(
                table, request.wanted, combiner=request.combiner, worlds=request.worlds,
                neighbours=self._config.neighbours,
            ),
        )  # fmt: skip
        return {
            "ensemble": found.ensemble,
            "class": {"id": found.class_id, "name": found.name, "score": found.score},
            "combiner": found.combiner,
            "buckets": found.buckets,
            "votes": [vote.to_dict() for vote in found.votes],
        }

    def about(self) -> dict[str, Any]:
        """Return what is served, and what may be asked of it."""
        ensemble, digest = self._answerer.current
        data = ensemble.config.data
        return {
            "ensemble": digest,
            "classes": ensemble.classes,
            "worlds": ensemble.worlds,
            "buckets": ensemble.config.partition.buckets,
            "named": ensemble.names is not None,
            "columns": columns(data),
            "texts": data.columns(labels=False) == list(data.text[:1]),
            "combiner": ensemble.manifest.combiner,
            "combiners": list(COMBINERS),
            "modes": list(MODES),
            "most_k": min(self._config.most_k, ensemble.classes),
            "most_queries": self._config.most_queries,
            "needs_token": self._needs_token,
        }

    async def health(self) -> dict[str, Any]:
        """Say that the process is alive."""
        return {"status": "alive"}

    async def ready(self) -> dict[str, Any]:
        """Say that queries are answered."""
        return {"status": "ready", "trouble": self._answerer.trouble}

    async def metrics(self) -> Response:
        """Return the numbers of this process."""
        return Response(self.meters.text(), media_type=self.meters.kind)

    def _answer(self, kind: _Kind, tables: list[pa.Table]) -> list[bytes]:
        way, _ = kind
        began = time.perf_counter()
        found = self._answerer.predict(pa.concat_tables(tables), way)
        self.meters.batch(sum(table.num_rows for table in tables), time.perf_counter() - began)
        bodies, start = [], 0
        for table in tables:
            rows = found.rows[start : start + table.num_rows]
            bodies.append(_written(Answers(found.ensemble, rows)))
            start += table.num_rows
        return bodies

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._config.refresh_seconds)
            await asyncio.to_thread(self._answerer.refresh)
            self.meters.serves(self._answerer.digest)
            self.meters.troubled(self._answerer.trouble is not None)


def _each(kind: None, calls: list[Callable[[], Explanation]]) -> list[Explanation]:
    return [call() for call in calls]


def _written(answers: Answers) -> bytes:
    """Return what `PredictResponse` is as JSON.

    A query at a time: thousands of answers are written while others are heard too.
    """
    rows = ",".join(
        json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for row in answers.rows
    )
    return f'{{"ensemble":"{answers.ensemble}","answers":[{rows}]}}'.encode()


def _at_most(what: str, found: int, most: int) -> None:
    if found > most:
        raise DataError(f"{what}: expected at most {most:,}, found {found:,}")


def _file(name: str, kind: str) -> Callable[[], Any]:
    data = (_PAGE / name).read_bytes()

    async def read() -> Response:
        return Response(data, media_type=kind, headers=_POLICY)

    return read


def _problem(status: int, error: str, **headers: str) -> JSONResponse:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": error}, status, told)


async def _refused(request: Request, error: Exception) -> Response:
    status = 400 if isinstance(error, DataError | ConfigError) else 503
    return _problem(status, str(error))


async def _failed(request: Request, error: Exception) -> Response:
    return _problem(
        500, f"expected an answer, found a fault of the service ({type(error).__name__});"
        " its log says more",
    )  # fmt: skip


async def _busy(request: Request, error: Exception) -> Response:
    return _problem(429, TOO_MANY, retry_after="1")


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _problem(422, "; ".join(_worded(one) for one in error.errors()[:5]))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteError)
    words = {
        400: "expected JSON in UTF-8, found something else",
        404: f"expected a path of /openapi.json, found {request.url.path[:_LONGEST]}",
        405: f"expected another method for {request.url.path[:_LONGEST]}, found {request.method};"
        " see /openapi.json",
    }
    told = words.get(error.status_code, str(error.detail))
    return JSONResponse({"error": told}, error.status_code, error.headers)


def _worded(one: dict[str, Any]) -> str:
    """Return what pydantic says of one value as a sentence of ours."""
    place = ".".join(str(part) for part in one["loc"] if part != "body")
    said = str(one["msg"]).removeprefix("Value error, ")
    if isinstance(one.get("input"), bytes):
        return "expected the header content-type: application/json, found another or none"
    if one["type"] == "json_invalid":
        return f"expected JSON, found something else: {one['ctx']['error']}"
    if one["type"] == "missing":
        return f"{place or 'body'}: expected it, found nothing"
    if one["type"] == "extra_forbidden":
        return f"{place}: expected no such field, found one; see /openapi.json"
    said = said.replace("Input should be", "expected").replace("should have", "expected to have")
    found = "" if "found" in said else f", found {one['input']!r:.{_LONGEST}}"
    return f"{place}: {said}{found}" if place else f"{said}{found}"


_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    Exception: _failed,
    ManyworldsError: _refused,
    Busy: _busy,
    RequestValidationError: _invalid,
    StarletteError: _http,
}
