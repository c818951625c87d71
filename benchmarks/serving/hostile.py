"""Clients that mean harm: bodies without end, bodies that never come, and all of it at once."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serving.services import memory, named
from benchmarks.serving.wrk import load

LARGE, SLOW = 32, 200
"""Connections of either kind."""
LARGE_BYTES = 64 << 20
"""That each of the first sends, if it may."""
CHUNK = 1 << 16
PATIENCE = 60.0
_HEAD = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
_LOOK = 0.2
_PARTS = (b"ray::ServeReplica", b"ray::ProxyActor")
"""How processes of Ray Serve begin that a request passes."""


def harm(
    url: str, process: subprocess.Popen[bytes], bodies: list[str], seconds: float
) -> dict[str, Any]:
    """Return what clients were told, and what that cost the service.

    Args:
        url: of the service.
        process: that serves, or has others serve.
        bodies: of requests that mean well, which 8 clients send at the same time.
        seconds: for how long those do.
    """
    pids = named(process, _PARTS) or [process.pid]
    before = _held(pids)
    told: Counter[str] = Counter()
    threads = [threading.Thread(target=_tell, args=(told, large, url)) for _ in range(LARGE)]
    threads += [threading.Thread(target=_tell, args=(told, slow, url)) for _ in range(SLOW)]
    for thread in threads:
        thread.start()
    peak = [before]
    over = threading.Event()
    watching = threading.Thread(target=_watch, args=(pids, peak, over))
    watching.start()
    found = load(url, bodies, clients=8, seconds=seconds)
    for thread in threads:
        thread.join()
    over.set()
    watching.join()
    return {"told": dict(told), "before": before, "peak": max(peak), **found}


def large(place: tuple[str, int]) -> str:
    """Send a body of very many chunks; return the status of the answer."""
    with socket.create_connection(place, PATIENCE) as connection:
        connection.sendall(_HEAD + b"transfer-encoding: chunked\r\n\r\n")
        piece = b"%x\r\n" % CHUNK + b"a" * CHUNK + b"\r\n"
        try:
            for _ in range(LARGE_BYTES // CHUNK):
                connection.sendall(piece)
        except OSError:
            # It was refused in the middle, which is as well.
            return _status(connection) or "closed"
        return _status(connection) or "closed"


def slow(place: tuple[str, int]) -> str:
    """Send the beginning of a body, and no more; return the status of the answer."""
    with socket.create_connection(place, PATIENCE) as connection:
        connection.sendall(_HEAD + b"content-length: 1000\r\n\r\n{")
        return _status(connection) or "closed"


def _status(connection: socket.socket) -> str:
    try:
        return connection.recv(1 << 12).split(b" ", 2)[1].decode()
    except (OSError, IndexError):
        return ""


def _tell(told: Counter[str], way: Callable[[tuple[str, int]], str], url: str) -> None:
    place = urlsplit(url)
    try:
        status = way((place.hostname or "", place.port or 0))
    except OSError as error:
        status = type(error).__name__
    told[f"{way.__name__} {status}"] += 1


def _watch(pids: list[int], peak: list[int], over: threading.Event) -> None:
    while not over.is_set():
        peak.append(_held(pids))
        time.sleep(_LOOK)


def _held(pids: list[int]) -> int:
    # Weights that are mapped come in with the queries that need them.
    return sum(memory(pid)["anonymous"] for pid in pids)
