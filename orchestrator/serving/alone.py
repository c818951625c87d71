"""The service in this process, without Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from orchestrator.serving.app import make_app
from orchestrator.serving.ports import check_free
from orchestrator.serving.settings import ENDING_SECONDS, ServingConfig
from workers.errors import RunError

_PATIENCE = 0.1
"""Seconds between two looks at a thread that starts."""


@contextmanager
def serving(config: ServingConfig) -> Iterator[str]:
    """Serve while the context is entered; yields the URL.

    Args:
        config: validated; it has one replica.

    Raises:
        StorageError: the ensemble cannot be opened.
        RunError: the port cannot be had.
    """
    check_free(config.host, config.port)
    app = make_app(config, token=config.secret())
    server = uvicorn.Server(
        uvicorn.Config(
            app, host=config.host, port=config.port, log_level="error", access_log=False,
            lifespan="on", timeout_graceful_shutdown=ENDING_SECONDS,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, name="manyworlds-serve")
    thread.start()
    try:
        while not server.started:
            thread.join(_PATIENCE)
            if not thread.is_alive():
                raise RunError("expected the service to start, found that it ended; see above")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{config.host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def wait() -> None:
    """Return when the process is told to end."""
    threading.Event().wait()
