"""Tells a command or a URL what somebody should know who does not look: done, failed, stalled."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError, URLError

from orchestrator.observers.beside import Warn
from orchestrator.observers.settings import is_url
from orchestrator.words import plural

if TYPE_CHECKING:
    from orchestrator.config import RunConfig
    from orchestrator.driving import RunSummary
    from orchestrator.views import WorldView

TIMEOUT = 10.0
"""Seconds that a server or a command has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to know."""

    event: Literal["done", "failed", "stalled"]
    message: str
    world: int | None = None
    """None: the whole run."""


class Notifier:
    """Runs a command, or posts to a URL, for every notice.

    A command gets JSON on its standard input, and MANYWORLDS_RUN, MANYWORLDS_EVENT and
    MANYWORLDS_MESSAGE in its environment. A URL gets the same JSON; its `text` is what Slack and
    its like show. No message names URL or command, which may hold credentials.

    Args:
        target: a command, taken apart as a shell would and run without one, or an http(s) URL.
        warn: is told the first time that a notice cannot be sent.
        timeout: seconds that each has.
    """

    def __init__(self, target: str, warn: Warn, *, timeout: float = TIMEOUT) -> None:
        self._target = target
        self._warn = warn
        self._timeout = timeout
        self._run = ""
        self._warned = False
        self._before: dict[int, WorldView] | None = None

    def begin(self, run: RunConfig) -> None:
        """Remember which run this is."""
        self._run = run.run

    def saw(self, views: Sequence[WorldView]) -> None:
        """Send what changed since the last time; what was so at first is old news."""
        if self._before is not None:
            for notice in _changes(self._before, views):
                self._send(notice)
        self._before = {view.world: view for view in views}

    def end(self, summary: RunSummary) -> None:
        """Send how the run was left, unless somebody stopped it."""
        if notice := _outcome(summary):
            self._send(notice)

    def _send(self, notice: Notice) -> None:
        try:
            if is_url(self._target):
                self._post(notice)
            else:
                self._call(notice)
        except Exception as error:
            # One that could not be sent does not keep the next from being sent.
            if not self._warned:
                self._warn(f"a notice ({notice.event}) could not be sent: {_reason(error)}")
            self._warned = True

    def _values(self, notice: Notice) -> dict[str, Any]:
        return {
            "schema": 1,
            "run": self._run,
            "event": notice.event,
            "world": notice.world,
            "message": notice.message,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "text": f"manyworlds {notice.event}: {self._run}: {notice.message}",
        }

    def _post(self, notice: Notice) -> None:
        body = json.dumps(self._values(notice)).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "manyworlds"}
        request = urllib.request.Request(self._target, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=self._timeout):
            pass

    def _call(self, notice: Notice) -> None:
        told = {"RUN": self._run, "EVENT": notice.event, "MESSAGE": notice.message}
        subprocess.run(
            shlex.split(self._target),
            input=json.dumps(self._values(notice)).encode(),
            env={**os.environ, **{f"MANYWORLDS_{key}": value for key, value in told.items()}},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=self._timeout,
            check=True,
            # Ctrl-C is meant for the run.
            start_new_session=True,
        )


def _changes(before: dict[int, WorldView], views: Sequence[WorldView]) -> Iterator[Notice]:
    for view in views:
        old = before.get(view.world)
        if view.state == "failed" and (old is None or old.state != "failed"):
            message = f"world {view.world} failed: {view.cause or 'no reason given'}"
            yield Notice(event="failed", world=view.world, message=message)
        elif view.ended == "hung" and (old is None or old.ends != view.ends):
            # What it waits for now may have taken the place of how its attempt ended.
            tries = f"{plural(view.attempts, 'attempt')} so far"
            message = f"world {view.world} hung and was killed, {tries}"
            yield Notice(event="stalled", world=view.world, message=message)


def _outcome(summary: RunSummary) -> Notice | None:
    worlds = len(summary.done) + len(summary.failed) + len(summary.pending)
    told = f"{len(summary.done)} of {plural(worlds, 'world')} done"
    if summary.error:
        return Notice(event="failed", message=f"the run ended: {summary.error}; {told}")
    if summary.stopped:
        return None
    if summary.ensemble:
        return Notice(event="done", message=f"{told}, merged into {summary.ensemble}")
    if summary.failed:
        return Notice(event="failed", message=f"{told}, not merged")
    return None


def _reason(error: Exception) -> str:
    """Return why sending failed, in words that hold nothing of the URL or the command."""
    if isinstance(error, HTTPError):
        return f"the server answered {error.code}"
    if isinstance(error, subprocess.CalledProcessError):
        return f"the command ended with {error.returncode}"
    if isinstance(error, (TimeoutError, subprocess.TimeoutExpired)):
        return "it took too long"
    if isinstance(error, URLError) and isinstance(error.reason, OSError):
        return error.reason.strerror or type(error.reason).__name__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
