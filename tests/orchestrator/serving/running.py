"""The service, run for real: on a port of this machine, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from orchestrator.serving.app import make_app
from orchestrator.serving.settings import ServingConfig


@contextlib.contextmanager
def running(config: ServingConfig, *, token: str | None = None) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1 for as long as it is entered; yield the page's URL."""
    # It listens from now on: who asks before the service is ready, waits.
    listening = socket.create_server(("127.0.0.1", 0))
    app = make_app(config, token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
