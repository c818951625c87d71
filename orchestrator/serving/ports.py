"""Whether a port can be had."""

from __future__ import annotations

import socket

from workers.errors import RunError


def check_free(host: str, port: int) -> None:
    """Raise `RunError` if something listens there already, or nothing can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(
                f"port {port} of {host}: expected it to be free, found:"
                f" {error.strerror}; try port={port + 1}"
            ) from error
