"""Command lines as jobs on a cluster: submitted once, followed, and found again.

A job's name follows from what it does: the same command again finds the job that
is at work, and once that has ended begins another one, which carries on with the run.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.presets import read_yaml
from workers.errors import ConfigError, ManyworldsError, RunError

_PATIENCE = 120.0
"""Seconds without a word from the cluster after which following a job is given up."""
_SHORTEST, _LONGEST = 1.0, 15.0
"""Seconds between two looks at a job."""
_NOT_FOUND = 127
"""What a shell exits with if there is no such command."""
_SUCCEEDED, _STOPPED = "SUCCEEDED", "STOPPED"


class NameTaken(RunError):
    """A job of the same name is there already."""


class Unreachable(RunError):
    """A cluster that does not answer; its jobs may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the cluster tells of it."""

    name: str
    state: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str = ""
    """The cluster's own words for the state."""
    exit_code: int | None = None
    """Of the command; None: it has not ended, or never began."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in (_SUCCEEDED, _STOPPED, "FAILED")

    @property
    def succeeded(self) -> bool:
        """Whether its command ended with exit code 0."""
        return self.state == _SUCCEEDED


class Jobs(Protocol):
    """The jobs of one cluster."""

    def named(self, name: str) -> list[Job]:
        """Return the jobs with this name or this name and a number, in any order.

        Raises:
            Unreachable: the cluster does not answer.
        """

    def submit(self, name: str, command: str, environment: dict[str, Any]) -> None:
        """Begin a job.

        Args:
            name: of it.
            command: for a shell.
            environment: the cluster's own settings for what the job finds there.

        Raises:
            ConfigError: the environment cannot work.
            NameTaken: there is a job of that name.
            RunError: the cluster refuses it.
        """

    def look(self, name: str) -> Job:
        """Return what has become of a job.

        Raises:
            RunError: there is no such job any more.
            Unreachable: the cluster does not answer.
        """

    def tail(self, name: str, write: Callable[[str], None]) -> None:
        """Write a job's log from its beginning, and on until the job ends or the line breaks.

        Raises:
            Unreachable: the cluster does not answer, or stopped to.
        """


def command_of(words: Sequence[str]) -> str:
    """Return the command that a job runs, for a shell."""
    return shlex.join(["manyworlds", *words])


def name_of(run: str, command: str) -> str:
    """Return the name of the job that runs a command on a run."""
    return f"manyworlds-{_digest(run.rstrip('/'))}-{_digest(command)}"


def submit(jobs: Jobs, name: str, command: str, environment: dict[str, Any]) -> tuple[Job, bool]:
    """Find the job that is at work, or begin one.

    Args:
        jobs: of the cluster.
        name: of the first such job; later ones have a number behind it.
        command: for a shell.
        environment: as of `Jobs.submit`.

    Returns:
        The job, and whether this call began it.

    Raises:
        ConfigError: the environment cannot work.
        RunError: the cluster refuses it, or does not answer.
    """
    try:
        return _submitted(jobs, name, command, environment)
    except Unreachable as error:
        raise RunError(
            f"expected the cluster to take a job, found no answer: {error}; the same command again"
            " follows the job, should it have begun"
        ) from error


def _submitted(
    jobs: Jobs, name: str, command: str, environment: dict[str, Any]
) -> tuple[Job, bool]:
    while True:
        found = {_number(name, job.name): job for job in jobs.named(name)}
        newest = max(found, default=0)
        if newest and not found[newest].ended:
            return found[newest], False
        fresh = name if newest == 0 else f"{name}-{newest + 1}"
        try:
            jobs.submit(fresh, command, environment)
        except NameTaken:
            # Somebody else was quicker with the same command; unless it cannot be seen.
            if fresh not in {job.name for job in jobs.named(name)}:
                raise
        else:
            return Job(name=fresh, state="PENDING"), True


def follow(
    jobs: Jobs,
    name: str,
    write: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Job:
    """Write a job's log until it ends, whatever becomes of the line in between.

    Args:
        jobs: of the cluster.
        name: of the job.
        write: gets every piece of the log once.
        sleep: waits for seconds.

    Returns:
        The job at its end.

    Raises:
        RunError: the job is gone, or the cluster did not answer for too long.
    """
    written = Written(write)
    waited, pause, ended = 0.0, _SHORTEST, False
    while True:
        before, job, broken = written.count, None, None
        try:
            jobs.tail(name, written.again())
        except Unreachable as error:
            broken = error
        try:
            job = jobs.look(name)
        except Unreachable as error:
            broken = error
        # A line that broke may have kept the last words for itself: they are asked for once more.
        if job and job.ended and (ended or not broken):
            return job
        ended = job is not None and job.ended
        if written.count > before:
            pause = _SHORTEST
        if job or written.count > before:
            waited = 0.0
        elif waited >= _PATIENCE:
            raise RunError(
                f"expected word of job {name}, found none for {waited:.0f} s: {broken}; it may go"
                " on all the same, and the same command follows it again"
            ) from broken
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST)


class Written:
    """Passes on what is new of a text that begins anew with every try.

    Args:
        write: gets what was not there before.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self.count = 0
        """Characters that were passed on."""

    def again(self) -> Callable[[str], None]:
        """Return what takes the text from its beginning, in pieces."""
        seen = 0

        def take(piece: str) -> None:
            nonlocal seen
            fresh = piece[max(0, self.count - seen) :]
            seen += len(piece)
            if fresh:
                self._write(fresh)
                self.count = seen

        return take


def end_of(job: Job) -> str:
    """Return how a job ended that did not succeed, in words."""
    what = f"job {job.name}"
    if job.state == _STOPPED:
        return (
            f"{what} was stopped before its command ended; the same command again carries on with"
            " the run"
        )
    if job.exit_code == _NOT_FOUND:
        return (
            f"{what}: expected the command manyworlds on the cluster, found none; use an image"
            " that has the package, or --runtime-env FILE with the line `pip: [URL]`, URL that of"
            " its wheel"
        )
    if job.exit_code is not None:
        return f"{what} failed: its command ended with exit code {job.exit_code}; see above"
    told = job.message.strip() or "the cluster does not say why"
    return f"{what} failed before its command began: {told}"


def read_environment(path: str) -> dict[str, Any]:
    """Return a runtime environment for a job, as Ray takes it, from a YAML or JSON file.

    Raises:
        ConfigError: it cannot be read, or is no mapping.
    """
    try:
        return read_yaml(Path(path))
    except ManyworldsError as error:
        raise ConfigError(f"--runtime-env {error}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _number(name: str, found: str) -> int:
    """Return which one a job is of those with a name; the first has no number."""
    match = re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", found)
    if match is None:
        raise ValueError(f"expected {name} or {name}-N, found {found}")
    return int(match[1] or 1)
