"""What can be done with a run, for the command line and for Python alike.

summary = train(preset="quickstart", overrides=["run=runs/a", ...])
resume("runs/a", worlds=[3, 7])
grow("runs/a", worlds=48)
status("runs/a")
logs("runs/a", world=3)
stop("runs/a")
merge("runs/a", min_worlds=6)
clean("runs/a", dry_run=True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator import cleaning, reducer, stopping, views
from orchestrator import logs as log_files
from orchestrator.cleaning import Item
from orchestrator.config import RunConfig, load, override
from orchestrator.driving import Listener, RunSummary, drive
from orchestrator.ensemble.artefact import served
from orchestrator.inputs import anchored
from orchestrator.lease import Lease, Owner, is_alive, owner_of
from orchestrator.logs import Log
from orchestrator.observers import Observer
from orchestrator.run import Run
from orchestrator.state import WorldState
from orchestrator.stopping import Request, request_of
from orchestrator.views import WorldView
from workers.errors import ConfigError, StorageError
from workers.storage import Storage

__all__ = [
    "Item",
    "Log",
    "RunStatus",
    "RunSummary",
    "clean",
    "grow",
    "logs",
    "merge",
    "resume",
    "status",
    "stop",
    "train",
]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is, as its storage has it."""

    config: RunConfig
    states: tuple[WorldState, ...]
    """By world, with every attempt."""
    views: tuple[WorldView, ...]
    """By world, what there is to see."""
    ensemble: str | None
    """Folder or URI of the ensemble that is served; None: there is none."""
    driver: Owner | None
    """Who drives it; None: nobody."""
    alive: bool | None
    """Whether the driver is alive; None where this host cannot tell."""
    request: Request | None
    """What asks the driver to stop."""

    @property
    def driven(self) -> bool:
        """Whether a driver is at work, as far as this host can tell."""
        return self.driver is not None and self.alive is not False


def train(
    config: RunConfig | None = None,
    *,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    observers: Sequence[Observer] = (),
    take_over: bool = False,
) -> RunSummary:
    """Train the worlds of a run and merge them; go on with the run if it is there already.

    Ctrl-C, SIGTERM and `stop` let every world write a checkpoint first; a second signal does not.

    Args:
        config: all settings; None: those of `preset`.
        preset: a name from `conf/`, or the path of a YAML file; without `config` only.
        overrides: `key=value` settings over them.
        listener: told after every change.
        observers: told likewise, each in a thread of its own, beside those of `watch.*`.
        take_over: drive the run even if another driver seems to.

    Raises:
        ConfigError: for settings that cannot work.
        DataError: for training data that cannot be trained on.
        RunError: if the run is another one than these settings make, or is driven already.
        KeyboardInterrupt: after a stop that was asked for.
    """
    if config is not None and preset is not None:
        raise ConfigError("expected a config or a preset, found both; give one of them")
    wanted = load(preset, overrides) if config is None else override(config, overrides)
    # Attempts run in other folders, maybe elsewhere.
    wanted = replace(anchored(wanted), run=Storage(wanted.run).uri)
    with Lease(Storage(wanted.run), take_over=take_over) as lease:
        return drive(wanted, lease, None, listener, observers)


def resume(
    run: str,
    worlds: Iterable[int] | None = None,
    *,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    observers: Sequence[Observer] = (),
    take_over: bool = False,
) -> RunSummary:
    """Go on with the worlds of a run that are not done, and merge.

    Args:
        run: its folder or URI.
        worlds: only these; None: all. Failed ones get fresh budgets.
        overrides: `key=value` settings, of those that may change while a run lives.
        listener: told after every change.
        observers: told likewise, each in a thread of its own, beside those of `watch.*`.
        take_over: drive the run even if another driver seems to.

    Raises:
        RunError: if there is no such run or world, or it is driven already.
        KeyboardInterrupt: after a stop that was asked for.
    """
    opened = Run.open(run)
    with Lease(opened.storage, take_over=take_over) as lease:
        wanted = anchored(override(_config_of(Run.open(run)), overrides))
        return drive(wanted, lease, worlds, listener, observers)


def grow(
    run: str,
    worlds: int,
    *,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    observers: Sequence[Observer] = (),
    take_over: bool = False,
) -> RunSummary:
    """Give a run more worlds, train those that are not done, and merge.

    Args:
        run: its folder or URI.
        worlds: how many it shall have in all.
        overrides: `key=value` settings, of those that may change while a run lives.
        listener: told after every change.
        observers: told likewise, each in a thread of its own, beside those of `watch.*`.
        take_over: drive the run even if another driver seems to.

    Raises:
        ConfigError: for settings that cannot work.
        RunError: if there is no such run, it has more worlds already, or it is driven already.
        KeyboardInterrupt: after a stop that was asked for.
    """
    opened = Run.open(run)
    with Lease(opened.storage, take_over=take_over) as lease:
        kept = _config_of(Run.open(run))
        wanted = anchored(override(kept, [*overrides, f"worlds={worlds}"]))
        return drive(wanted, lease, None, listener, observers)


def stop(run: str, *, wait: bool = True, listener: Callable[[str], None] | None = None) -> bool:
    """Ask the driver of a run to stop: every world writes a checkpoint, then the driver leaves.

    Args:
        run: its folder or URI.
        wait: return only when the driver has left.
        listener: gets what there is to wait for, in words, whenever that changes.

    Returns:
        Whether there was a driver to ask.

    Raises:
        RunError: there is no such run, or its driver died instead of leaving.
    """
    opened = Run.open(run)
    owner = owner_of(opened.storage)
    if owner is None or is_alive(owner) is False:
        return False
    stopping.ask(opened.storage, owner.token)
    if wait:
        stopping.wait_until_left(opened, owner, listener or (lambda line: None))
    return True


def clean(run: str, *, dry_run: bool = False) -> list[Item]:
    """Remove what a run needs no more; return what that is.

    Superseded checkpoints, leftovers of attempts that were never committed, and ensembles other
    than the one that is served.

    Args:
        run: its folder or URI.
        dry_run: remove nothing.

    Raises:
        RunError: there is no such run, or it is driven.
        StorageError: what supersedes something else is altered.
    """
    opened = Run.open(run)
    if dry_run:
        return cleaning.superfluous(opened)
    with Lease(opened.storage):
        return cleaning.remove(opened, cleaning.superfluous(opened))


def logs(
    run: str, world: int | None = None, attempt: str | None = None, *, lines: int = 50
) -> list[Log]:
    """Return the last lines of the logs of a run's worlds, by world.

    Args:
        run: its folder or URI.
        world: only this one; None: all.
        attempt: only this one of the world; None: the newest that wrote a log.
        lines: of each log at most.

    Raises:
        RunError: there is no such run, world or attempt.
    """
    return log_files.read(Run.open(run), world, attempt, lines)


def status(run: str) -> RunStatus:
    """Return how far a run is; reads its storage and changes nothing.

    Raises:
        RunError: there is no such run.
        StorageError: a file of the run is altered.
    """
    opened = Run.open(run)
    driver = owner_of(opened.storage)
    alive = is_alive(driver) if driver else None
    digest = served(opened.storage)
    folder = opened.paths.ensemble(digest) if digest else None
    if folder and not opened.storage.exists(folder):
        raise StorageError(
            f"{opened.storage.where(opened.paths.current)}: expected the name of an ensemble of"
            f" this run, found {digest}, which is not there; merge it again with"
            f" 'manyworlds merge {run}'"
        )
    states = opened.states()
    driven = driver is not None and alive is not False
    return RunStatus(
        config=_config_of(opened),
        states=tuple(states),
        views=tuple(views.of_run(opened, states, driven=driven)),
        ensemble=opened.storage.where(folder) if folder else None,
        driver=driver,
        alive=alive,
        request=request_of(opened.storage, driver.token) if driver else None,
    )


def merge(
    run: str,
    *,
    min_worlds: int | None = None,
    weights: str | None = None,
    lookup: str | None = None,
) -> str:
    """Merge the worlds of a run that are done; return the folder or URI of the ensemble.

    Args:
        run: its folder or URI.
        min_worlds: how many must be done; None: as the run's settings say.
        weights: what the ensemble stores its weights in, `fp32`, `bf16` or `int8`; None: as the
            run's settings say.
        lookup: whether every class's buckets are `computed` or `stored`; None: likewise.

    Raises:
        ConfigError: if `weights` or `lookup` is none of these.
        RunError: if there is no such run, or fewer worlds are done.
    """
    config = _config_of(Run.open(run))
    asked = {"weights": weights, "lookup": lookup}
    config = override(
        config, [f"merge.{key}={one}" for key, one in asked.items() if one is not None]
    )
    return reducer.merge(config, min_worlds=min_worlds)


def _config_of(run: Run) -> RunConfig:
    return RunConfig.from_parts(run.uri, run.identity, run.settings).validate()
