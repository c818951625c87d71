"""`--submit ADDRESS`: the same command line as a job on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from orchestrator import submitting
from orchestrator.cli.arguments import Arguments
from orchestrator.cli.output import following, show
from orchestrator.config import RunConfig, given, overrides_of
from orchestrator.inputs import absolute, anchored
from orchestrator.observers.settings import FROM_ENVIRONMENT, may_be_secret
from orchestrator.submitting import Job, Jobs
from workers.errors import ConfigError
from workers.storage import refuse_credentials

SUCCEEDED, FAILED, DETACHED = 0, 1, 130
"""Exit codes."""
_KEY, _HERE = "cluster.address", "auto"
"""What a job is told: the cluster that it runs on."""


def asked(arguments: Arguments) -> bool:
    """Return whether a command line is to become a job.

    Raises:
        ConfigError: its options do not go together.
    """
    if arguments.submit is None and (arguments.detach or arguments.runtime_env is not None):
        raise ConfigError("expected --submit ADDRESS beside --detach or --runtime-env, found none")
    return arguments.submit is not None


def train(arguments: Arguments, config: RunConfig) -> int:
    """Train a run as a job; its settings travel in its command, so that no preset has to.

    Args:
        arguments: of the command line.
        config: all settings of the run.

    Returns:
        0 if the job succeeded, or goes on with --detach; 1 if it failed; 130 after Ctrl-C, when
        it goes on.

    Raises:
        ConfigError: for what cannot work.
        RunError: the cluster is not there, or refuses the job.
        StorageError: a URI holds credentials.
    """
    _check(config)
    config = anchored(config)
    return _submit(arguments, config.run, ["train", *overrides_of(config)], _places(config))


def go_on(arguments: Arguments, run: str) -> int:
    """Resume or grow a run as a job.

    Args:
        arguments: of the command line, of which the first word is the run.
        run: its folder or URI.

    Returns:
        As of `train`.

    Raises:
        ConfigError: for what cannot work.
        RunError: the cluster is not there, or refuses the job.
        StorageError: a URI holds credentials.
    """
    config, keys = given(arguments.words[1:])
    _check(config)
    keys = [key for key in keys if key != _KEY]
    words = [arguments.verb, absolute(run), *overrides_of(anchored(config), keys)]
    return _submit(arguments, absolute(run), words, [absolute(run), *_places(config)])


def _check(config: RunConfig) -> None:
    """Refuse settings that a job cannot have, or that its command would show to everybody."""
    address, notify = config.cluster.address, config.watch.notify
    if address != _HERE:
        raise ConfigError(
            f"expected {_KEY}={_HERE} beside --submit, found {address}: a job runs on the cluster"
            " that it was submitted to"
        )
    if may_be_secret(notify):
        raise ConfigError(
            f"watch.notify: expected {FROM_ENVIRONMENT}NAME beside --submit, found the command or"
            " URL itself, which everybody who sees the cluster's jobs could read; put it into an"
            " environment variable there, and name that"
        )


def _places(config: RunConfig) -> list[str]:
    data = config.data
    places = [config.run, data.train, data.validation, data.class_names]
    return [place for place in places if place]


def _submit(arguments: Arguments, run: str, words: Sequence[str], places: Sequence[str]) -> int:
    for place in places:
        refuse_credentials(place)
    found = arguments.runtime_env
    environment = {} if found is None else submitting.read_environment(found)
    command = submitting.command_of([*words, f"{_KEY}={_HERE}", *arguments.only_worlds()])
    name = submitting.name_of(run, command)
    jobs = _reached(str(arguments.submit))
    _warn(arguments, places)
    if arguments.take_over:
        command += " --take-over"
    job, begun = submitting.submit(jobs, name, command, environment)
    show([f"job {job.name} {'begins' if begun else 'is at work already'}: {command}"])
    if arguments.detach:
        _leave(arguments, job, run)
        return SUCCEEDED
    try:
        job = submitting.follow(jobs, job.name, _write)
    except KeyboardInterrupt:
        show([""])
        _leave(arguments, job, run)
        return DETACHED
    if job.succeeded:
        show([f"job {job.name} succeeded"])
        return SUCCEEDED
    print(f"manyworlds {arguments.verb}: {submitting.end_of(job)}", file=sys.stderr)
    return FAILED


def _reached(address: str) -> Jobs:
    from orchestrator.executors.jobs import RayJobs

    return RayJobs(address)


def _warn(arguments: Arguments, places: Iterable[str]) -> None:
    paths = dict.fromkeys(place for place in places if "://" not in place)
    if paths:
        print(
            f"manyworlds {arguments.verb}: {', '.join(paths)}: paths, not URIs: every machine of"
            " the cluster has to reach the same files by them",
            file=sys.stderr,
        )


def _write(piece: str) -> None:
    print(piece, end="", flush=True)


def _leave(arguments: Arguments, job: Job, run: str) -> None:
    """Say that a job goes on, and how to follow it again, look at its run, and stop it."""
    show([f"job {job.name} goes on; the same command follows it again", ""])
    show(following([arguments.again(), ["status", run, "--watch"], ["stop", run]]))
