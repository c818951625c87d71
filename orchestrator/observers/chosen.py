"""The observers that a run's settings ask for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping

from orchestrator.config import RunConfig
from orchestrator.observers import tensorboard
from orchestrator.observers.base import Observer
from orchestrator.observers.beside import Warn, warn
from orchestrator.observers.notify import Notifier
from orchestrator.observers.settings import FROM_ENVIRONMENT, notify_problem
from workers.errors import ConfigError


def chosen(
    config: RunConfig, *, warn: Warn = warn, environment: Mapping[str, str] = os.environ
) -> list[Observer]:
    """Return the observers that `watch.*` asks for.

    Args:
        config: of the run.
        warn: gets what the user should know, and whatever cannot be sent later.
        environment: where `env:NAME` is looked up.

    Raises:
        ConfigError: one of them is not there, or cannot be made.
    """
    found = [_made(name) for name in config.watch.observers]
    if folder := tensorboard.folder_for(config, warn):
        found.append(tensorboard.TensorBoard(folder))
    if target := _target(config.watch.notify, environment):
        found.append(Notifier(target, warn))
    return found


def _made(name: str) -> Observer:
    module, _, attribute = name.partition(":")
    try:
        made: Observer = getattr(importlib.import_module(module), attribute)()
    except Exception as error:
        raise ConfigError(
            f"watch.observers: expected {name} to be an observer, found {type(error).__name__}:"
            f" {error}; its module must be on the Python path (PYTHONPATH), and its class must be"
            " made without arguments"
        ) from error
    if missing := [call for call in ("begin", "saw", "end") if not hasattr(made, call)]:
        raise ConfigError(
            f"watch.observers: expected {name} to be an observer, found no {missing[0]}; see"
            " orchestrator.observers.Observer"
        )
    return made


def _target(notify: str | None, environment: Mapping[str, str]) -> str | None:
    if notify is None or not notify.startswith(FROM_ENVIRONMENT):
        return notify
    name = notify.removeprefix(FROM_ENVIRONMENT)
    target = environment.get(name, "")
    problem = "nothing" if not target else notify_problem(target)
    if problem or target.startswith(FROM_ENVIRONMENT):
        raise ConfigError(
            f"watch.notify: expected a command or an http(s) URL in the environment variable"
            f" {name}, found {'nothing' if not target else 'neither'}; set it for the process that"
            " drives the run"
        )
    return target
