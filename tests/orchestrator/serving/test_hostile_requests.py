"""Requests made of the OpenAPI page to do harm, and others that no page would make."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.serving import alone
from orchestrator.serving.settings import ServingConfig

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(run: Path) -> Iterator[str]:
    """Return where the run is served, with little patience."""
    config = ServingConfig(
        ensemble=str(run), port=0, cpus=1, most_k=50, most_queries=8, body_seconds=0.5
    )
    with alone.serving(config.validate()) as found:
        yield found


ASKED = ("/predict", "/explain")
"""What takes a body, which can be wrong."""
TOLD = ("/about", "/health", "/ready", "/metrics")
CASES = [(path, mode) for path in ASKED for mode in GenerationMode] + [
    (path, GenerationMode.POSITIVE) for path in TOLD
]


def test_all_of_the_page_is_asked(url: str) -> None:
    assert set(httpx2.get(f"{url}/openapi.json").json()["paths"]) == {*ASKED, *TOLD}


@pytest.mark.parametrize(("path", "mode"), CASES)
def test_no_request_makes_an_error_of_the_server(url: str, path: str, mode: GenerationMode) -> None:
    pages: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in pages.get_all_operations()]
    (operation,) = (found for found in operations if found.path == path)

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def answered(case: schemathesis.Case[Any]) -> None:
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            assert "expected" in answer.json()["error"]

    answered()


def told(url: str, request: bytes) -> tuple[int, Any]:
    """Send bytes, and return the status and the JSON of what comes back."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname or "", place.port or 0), 60) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


HEAD = (
    b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n"
)


def test_a_body_that_never_ends_is_given_up(url: str) -> None:
    status, answer = told(url, HEAD + b"content-length: 100\r\n\r\n{")
    assert status == 408
    assert "expected the body within 0.5 s" in answer["error"]


@pytest.mark.parametrize(
    "rest",
    [
        b"content-length: 2000000\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n" + b"80000\r\n" + b"a" * 0x80000 + b"\r\n"
        b"90000\r\n" + b"a" * 0x90000 + b"\r\n",
    ],
)  # fmt: skip
def test_a_body_that_is_too_large_is_refused_before_its_end(url: str, rest: bytes) -> None:
    status, answer = told(url, HEAD + rest)
    assert status == 413
    assert "at most 1,048,576 bytes" in answer["error"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"texts": ["\xc3\x28"]}',
        b'{"texts": ["a"], "k": 1e400}',
        b'{"texts": ["a"], "k": NaN}',
        b'{"rows": [{"query": Infinity}]}',
        b'{"texts": ["a"], "k": ' + b"9" * 5000 + b"}",
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
    ],
)
def test_what_is_no_json_is_refused(url: str, body: bytes) -> None:
    status, answer = told(url, HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert 400 <= status < 500
    assert "expected" in answer["error"]
