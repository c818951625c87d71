"""A Ray cluster: how to reach one, and how many worlds it has room for."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping

import ray
from ray.exceptions import AuthenticationError, RayError

from orchestrator.executors.room import Machine
from workers.errors import RunError

_QUIET = {
    # GPUs of a world on CPUs are left alone by asking Torch for the CPU, not by hiding them.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_OBJECT_STORE = 100 << 20
"""Bytes; weights never pass through it."""
_KNOCK_SECONDS = 10.0


def connect(address: str, resources: Mapping[str, float] | None = None) -> bool:
    """Join or start a Ray cluster, unless this process is in one already.

    Args:
        address: `auto` (the cluster that RAY_ADDRESS names or that `ray start` started on this
            machine, else a new local one), `local` (a new local one), or HOST:PORT.
        resources: of a new local cluster: num_cpus, num_gpus; None: what the machine has.

    Returns:
        Whether this call connected, so that its caller has to disconnect.

    Raises:
        RunError: the address cannot be reached.
    """
    if ray.is_initialized():
        return False
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address, why = _chosen(address)
    try:
        _init(address, resources or {})
    except AuthenticationError as error:
        raise RunError(
            f"cluster.address={address}: expected a Ray cluster{why} that takes this program's"
            f" token, found: {error.message}; set RAY_AUTH_MODE=token, and the token in"
            " RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names (default:"
            " ~/.ray/auth_token), or use cluster.address=local"
        ) from error
    except (ConnectionError, ImportError, OSError, RuntimeError, ValueError, RayError) as error:
        raise RunError(
            f"cluster.address={address}: expected a Ray cluster{why}, found none that takes this"
            f" program: {error}; start one with `ray start --head`, set RAY_AUTH_MODE=token if it"
            " asks for a token, or use cluster.address=local"
        ) from error
    return True


def foretold(address: str) -> str:
    """Return which cluster `connect` will take for `auto`, in words; empty where it is plain."""
    if address != "auto" or ray.is_initialized():
        return ""
    address, why = _chosen(address)
    if address == "local":
        return "no Ray cluster is named or runs here: one is started on this machine"
    return f"Ray cluster at {address}{why}; cluster.address=local starts another"


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be in a Ray cluster, and leave it at the end unless this process was in one before.

    Args:
        address: as of `connect`.

    Raises:
        RunError: it cannot be reached.
    """
    joined = connect(address)
    try:
        yield
    finally:
        if joined:
            ray.shutdown()


def machines() -> dict[str, Machine]:
    """Return the machines of the cluster that are alive, by Ray's ids for them."""
    return {
        node["NodeID"]: Machine(
            node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0), node["Labels"]
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }


def draining() -> set[str]:
    """Return the ids of the machines that are about to be taken away."""
    # The only place where Ray tells this is private to it, and may be gone in another version.
    with contextlib.suppress(ImportError, AttributeError):
        from ray._private.state import state

        return set(state.get_draining_nodes())
    return set()


def _init(address: str, resources: Mapping[str, float]) -> None:
    if address == "local":
        more = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE, **resources}
    else:
        more = {}
        knock(address)
    before = signal.getsignal(signal.SIGTERM)
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **more)  # type: ignore[arg-type]
    # Ray takes the signal for itself, and would end the process with a trace of its own.
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _chosen(address: str) -> tuple[str, str]:
    """Return the address that is meant, and for `auto` the words that say why."""
    if address != "auto":
        return address, ""
    if (named := os.environ.get("RAY_ADDRESS", "auto")) not in ("", "auto"):
        return named, ", which RAY_ADDRESS names"
    if found := started_here():
        return found, ", which runs on this machine already"
    return "local", ""


def started_here() -> str | None:
    """Return the address of the cluster that `ray start` left word of, if it is still up."""
    # Ray's own `auto` also joins clusters that other programs started for themselves.
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        from ray._private.utils import read_ray_address

        if address := read_ray_address():
            knock(address)
            return str(address)
    return None


def knock(address: str) -> None:
    """Connect to an address and leave: Ray itself would try for minutes and then end the process.

    Raises:
        OSError: nobody is there.
        ValueError: it is no HOST:PORT.
    """
    if "://" in address:
        raise ValueError("it is no HOST:PORT, but a URL; that of a dashboard is for --submit")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError("it is no HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
