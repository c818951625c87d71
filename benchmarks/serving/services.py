"""Services in processes of their own: `manyworlds serve`, and FastAPI that does nothing.

    python -m benchmarks.serving.services ray|alone PORT

serves the function that does nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import uvicorn
from fastapi import FastAPI

PATIENCE = 180.0
"""Seconds that a service may take to start."""
_LOOK = 0.2


def nothing() -> FastAPI:
    """Return a service that answers anything posted to /predict with the same few bytes."""
    app = FastAPI()

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/predict")
    async def predict() -> dict[str, list[int]]:
        return {"answers": []}

    return app


def serve_nothing(way: str, port: int) -> None:
    """Serve it until the process is told to end."""
    if way == "alone":
        uvicorn.run(nothing(), port=port, log_level="error", access_log=False)
        return
    from ray import serve

    ray.init("local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": port})
    quiet: Any = serve.deployment(
        name="Nothing", max_ongoing_requests=600, logging_config={"enable_access_log": False}
    )
    serve.run(quiet(serve.ingress(nothing)()).bind(), route_prefix="/")
    threading.Event().wait()


@contextmanager
def running(words: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a service, PORT among its words; yields its URL and process once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", *(word.replace("PORT", str(port)) for word in words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        began = time.monotonic()
        while not _is_ready(f"{url}/ready"):
            if process.poll() is not None or time.monotonic() - began > PATIENCE:
                raise SystemExit(f"{' '.join(command)}: expected a service, found none")
            time.sleep(_LOOK)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def replicas(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of a service that answer, the oldest first."""
    return named(process, (b"ray::ServeReplica",)) or [process.pid]


def named(process: subprocess.Popen[bytes], names: Sequence[bytes]) -> list[int]:
    """Return the descendants of a process whose names begin so, the oldest first."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            status = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(status[1])
        if words.startswith(tuple(names)):
            found.append((int(status[19]), int(folder.name)))
    return [pid for _, pid in sorted(found) if _descends(pid, process.pid, parents)]


def memory(pid: int) -> dict[str, int]:
    """Return bytes of a process.

    `resident`; `own`, its share of what it shares counted; and `anonymous`, without the files that
    it maps, such as weights.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    told = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return {"resident": told["Rss"], "own": told["Pss"], "anonymous": told["Anonymous"]}


def kill(pid: int) -> None:
    """End a process at once."""
    os.kill(pid, signal.SIGKILL)


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parents.get(pid, 0)
    return False


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    serve_nothing(sys.argv[1], int(sys.argv[2]))
