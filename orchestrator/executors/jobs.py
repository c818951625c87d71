"""Ray's Jobs API: the jobs of a cluster, by the address of its dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ray.exceptions import AuthenticationError, RayError

from orchestrator.executors import cluster
from orchestrator.submitting import Job, NameTaken, Unreachable
from workers.errors import ConfigError, RunError

_KNOCK_SECONDS = 10.0
_SILENCE = 60.0
"""Seconds without a word of a log after which it is asked for anew: a line that a machine between
here and the cluster has forgotten never says that it broke."""
_ELSEWHERE = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""With these in the environment, Ray's client would go there, whatever it is told."""
_PART = "aiohttp"
"""What Ray's client imports and does without until it is used."""
_EXAMPLE = "http://HOST:8265"


class RayJobs:
    """The jobs of a Ray cluster.

    Args:
        address: of its dashboard, http://HOST:PORT or HOST:PORT; `auto`: of the cluster that
            RAY_API_SERVER_ADDRESS or RAY_ADDRESS names, or that runs on this machine.

    Raises:
        ConfigError: Ray is installed without what its Jobs API needs, or the address is none.
        RunError: there is no dashboard at the address, or it refuses this client.
    """

    def __init__(self, address: str) -> None:
        try:
            if find_spec(_PART) is None:
                raise ImportError(f"no module {_PART}")
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise _not_installed(error) from error
        # It tells of every line that closes.
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
        with _refusals(address):
            self.address = _found_here() if address == "auto" else _url(address)
        with _refusals(address), _unheard():
            if "://" in self.address:
                _knock(self.address)
            self._client: Any = JobSubmissionClient(self.address)
            self.address = str(self._client.get_address())

    def named(self, name: str) -> list[Job]:
        """Return the jobs with this name or this name and a number."""
        wanted = re.compile(rf"{re.escape(name)}(-\d+)?")
        with _silences(self.address):
            found = self._client.list_jobs()
        return [
            _job(item.submission_id, item)
            for item in found
            if item.submission_id and wanted.fullmatch(item.submission_id)
        ]

    def submit(self, name: str, command: str, environment: dict[str, Any]) -> None:
        """Begin a job."""
        try:
            self._client.submit_job(
                entrypoint=command, submission_id=name, runtime_env=environment or None
            )
        except AuthenticationError as error:
            raise _refused(self.address, error) from error
        except OSError as error:
            raise Unreachable(f"{self.address}: {_short(error)}") from error
        except (RuntimeError, TypeError, ValueError) as error:
            if "already exists" in str(error):
                raise NameTaken(f"{self.address}: there is a job {name} already") from error
            if isinstance(error, RuntimeError):
                raise RunError(
                    f"{self.address}: expected the cluster to take a job, found a refusal:"
                    f" {_short(error)}"
                ) from error
            raise ConfigError(
                f"expected a runtime environment that Ray takes, found: {_short(error)}"
            ) from error

    def look(self, name: str) -> Job:
        """Return what has become of a job."""
        try:
            with _silences(self.address):
                return _job(name, self._client.get_job_info(name))
        except Unreachable as error:
            if "status code 404" in str(error.__cause__):
                raise RunError(
                    f"{self.address}: expected job {name}, found none: the head of the cluster was"
                    " lost since; the same command again carries on with the run"
                ) from error
            raise

    def tail(self, name: str, write: Callable[[str], None]) -> None:
        """Write a job's log from its beginning, and on until the job ends or the line breaks."""

        async def listen() -> None:
            pieces = self._client.tail_job_logs(name)
            while True:
                try:
                    piece = await asyncio.wait_for(anext(pieces), _SILENCE)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise Unreachable(
                        f"{self.address}: expected a word of the log within {_SILENCE:g} s, found"
                        " none"
                    ) from error
                # Of its own kinds, which belong to a package that only Ray knows.
                except Exception as error:
                    raise Unreachable(f"{self.address}: {_short(error)}") from error
                write(piece)

        asyncio.run(listen())


def _job(name: str, found: Any) -> Job:
    return Job(
        name=name,
        state=str(found.status),
        message=found.message or "",
        exit_code=found.driver_exit_code,
    )


def _url(address: str) -> str:
    """Return the address with its scheme.

    Raises:
        ConfigError: it has another one, or names no host.
    """
    url = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = None
    if not fits:
        raise ConfigError(
            f"--submit {address}: expected auto or the address of a Ray cluster's dashboard, such"
            f" as {_EXAMPLE}"
        )
    return url


def _found_here() -> str:
    """Return the address that the environment names, or of the cluster that runs on this machine.

    Raises:
        ConfigError: the environment names what is none.
        ConnectionError: there is none.
    """
    for name in _ELSEWHERE:
        if (named := os.environ.get(name, "auto")) not in ("", "auto"):
            return _named(name, named)
    if found := cluster.started_here():
        return found
    raise ConnectionError("neither RAY_ADDRESS nor `ray start` on this machine left word of one")


def _named(name: str, address: str) -> str:
    """Return the address that the environment names.

    Raises:
        ConnectionError: nobody is there.
    """
    if "://" in address:
        return _url(address)
    try:
        cluster.knock(address)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"{name}={address}: {error}") from error
    return address


def _knock(url: str) -> None:
    """Connect to an address and leave: Ray's client would wait for minutes.

    Raises:
        OSError: nobody is there.
    """
    parts = urlsplit(url)
    if parts.scheme not in getproxies():
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((str(parts.hostname), port), _KNOCK_SECONDS).close()


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Hide the addresses in the environment."""
    hidden = {name: os.environ.pop(name) for name in _ELSEWHERE if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def _refusals(address: str) -> Iterator[None]:
    """Turn what goes wrong on the way to a dashboard into sentences."""
    try:
        yield
    except AuthenticationError as error:
        raise _refused(address, error) from error
    except (
        AttributeError,
        KeyError,
        OSError,
        RayError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise RunError(
            f"--submit {address}: expected the dashboard of a Ray cluster, such as {_EXAMPLE},"
            f" found none: {_short(error)}; `ray start --head` prints its address, where"
            " 'ray[default]' is installed"
        ) from error


@contextlib.contextmanager
def _silences(address: str) -> Iterator[None]:
    """Turn a dashboard that no longer answers as it should into `Unreachable`."""
    try:
        yield
    except AuthenticationError as error:
        raise _refused(address, error) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise Unreachable(f"{address}: {_short(error)}") from error


def _refused(address: str, error: AuthenticationError) -> RunError:
    found = {"required": "none", "failed": "another one"}
    said = next((words for kind, words in found.items() if f" {kind}: " in error.message), None)
    return RunError(
        f"{address}: expected the token of the cluster, found {said or _first(error.message)}; set"
        " RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN or in the file that"
        " RAY_AUTH_TOKEN_PATH names (default: ~/.ray/auth_token)"
    )


def _not_installed(error: ImportError) -> ConfigError:
    return ConfigError(
        f"expected Ray's Jobs API, found a Ray without it ({_short(error)}); install"
        " 'manyworlds[jobs]'"
    )


def _short(error: BaseException) -> str:
    """Return the last line of what an error says: those of a server end in what matters."""
    lines = _lines(str(error))
    return lines[-1] if lines else type(error).__name__


def _first(text: str) -> str:
    return (_lines(text) or ["no reason"])[0]


def _lines(text: str) -> list[str]:
    return [line.strip(" .") for line in text.splitlines() if line.strip(" .")]
