"""The way to a cluster's dashboard, and what is said where it ends: without a cluster."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray
from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

from orchestrator.executors import cluster
from orchestrator.executors import jobs as ray_jobs
from orchestrator.executors.jobs import RayJobs
from orchestrator.submitting import Unreachable
from tests.test_house_rules import run_without
from workers.errors import ConfigError, RunError

Serve = Callable[..., str]
WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What a server hashes with a client's key to say that it speaks the protocol."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Return what starts a server with one answer to all and returns its address.

    Where it is mute, who asks for a log is let in and told nothing.
    """
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: str, mute: bool = False) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if mute and "Upgrade" in self.headers:
                    self.be_mute()
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def be_mute(self) -> None:
                key = self.headers["Sec-WebSocket-Key"] + WEBSOCKET
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                proof = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
                self.send_header("Sec-WebSocket-Accept", proof)
                self.end_headers()
                self.rfile.read()  # Until the client leaves.

            def log_message(self, format: str, *words: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,)).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def closed() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return f"127.0.0.1:{port}"


VERSION = json.dumps({"ray_version": ray.__version__})


def test_a_dashboard_is_found_with_and_without_its_scheme(serve: Serve) -> None:
    address = serve(200, VERSION)
    assert RayJobs(f"{address}/").address == address
    assert RayJobs(address.removeprefix("http://")).address == address


def test_an_address_that_is_given_beats_those_of_the_environment(
    serve: Serve, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"http://{closed}")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://{closed}")
    address = serve(200, VERSION)
    assert RayJobs(address).address == address


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_auto_takes_that_of_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    address = serve(200, VERSION)
    monkeypatch.setenv(name, address)
    assert RayJobs("auto").address == address


def test_auto_does_not_wait_for_a_cluster_of_the_environment_that_is_gone(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(RunError, match=rf"--submit auto: .* none: RAY_ADDRESS={closed}: .*refused"):
        RayJobs("auto")


def test_auto_tells_of_an_address_in_the_environment_where_another_server_is(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        def __init__(self, address: str) -> None:
            # As Ray's, after most of a minute.
            raise RayError("Timed out while waiting for GCS to become available.")

    Client.__module__ = JobSubmissionClient.__module__
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Client)
    monkeypatch.setenv("RAY_ADDRESS", serve(200, VERSION).removeprefix("http://"))
    with pytest.raises(RunError, match=r"found none: Timed out while waiting for GCS"):
        RayJobs("auto")


def test_auto_takes_what_runs_here_if_the_environment_says_auto_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serve(200, VERSION)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(cluster, "started_here", lambda: address)
    assert RayJobs("auto").address == address


def test_auto_without_a_cluster_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "started_here", lambda: None)
    with pytest.raises(RunError, match=r"--submit auto: expected the dashboard of a Ray cluster"):
        RayJobs("auto")


def test_an_address_where_nobody_is_is_refused(closed: str) -> None:
    with pytest.raises(RunError, match=r"such as http://HOST:8265, found none: .*refused"):
        RayJobs(closed)


@pytest.mark.parametrize("address", ["ftp://head:1", "ray://head:10001", "http://", "head:x", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected auto or the address of a Ray cluster's dash"):
        RayJobs(address)


@pytest.mark.parametrize(
    ("status", "body"), [(200, "<html>"), (200, "[]"), (200, "{}"), (404, ""), (500, "oh")]
)
def test_another_server_is_no_dashboard(serve: Serve, status: int, body: str) -> None:
    address = serve(status, body)
    with pytest.raises(RunError, match=rf"--submit {address}: expected the dashboard of a Ray"):
        RayJobs(address)


@pytest.mark.parametrize(("status", "found"), [(401, "none"), (403, "another one")])
def test_a_token_that_is_lacking_or_wrong_is_told(serve: Serve, status: int, found: str) -> None:
    with pytest.raises(RunError, match=rf"the token of the cluster, found {found}; set RAY_AUTH"):
        RayJobs(serve(status, "no"))


def test_a_dashboard_that_falls_silent_is_unreachable(serve: Serve) -> None:
    jobs = RayJobs(serve(200, VERSION))
    with pytest.raises(Unreachable):
        jobs.look("a")
    with pytest.raises(Unreachable):
        jobs.tail("a", lambda piece: None)


# Ray's client closes its session and leaves the line in it to the collector.
@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
def test_a_log_that_says_nothing_for_long_is_a_line_that_broke(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "_SILENCE", 0.1)
    jobs = RayJobs(serve(200, VERSION, mute=True))
    with pytest.raises(Unreachable, match=r"expected a word of the log within 0\.1 s, found none"):
        jobs.tail("a", lambda piece: None)
    gc.collect()


def test_ray_without_its_jobs_api_names_the_extra() -> None:
    ended = run_without(
        ("aiohttp",), "from orchestrator.executors.jobs import RayJobs; RayJobs('a:1')"
    )
    assert ended.returncode == 1
    assert "expected Ray's Jobs API" in ended.stderr
    assert "install 'manyworlds[jobs]'" in ended.stderr
