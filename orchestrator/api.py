"""What can be done with a run, for the command line and for Python alike.

summary = train(preset="quickstart", overrides=["run=runs/a", ...])
resume("runs/a", worlds=[3, 7])
status("runs/a")
merge("runs/a", min_worlds=6)
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import reducer, views
from orchestrator.config import RunConfig, load, override
from orchestrator.driver import Driver, Summary
from orchestrator.executors import Executor, InProcessExecutor
from orchestrator.inputs import open_inputs
from orchestrator.lease import Lease
from orchestrator.run import Run
from orchestrator.state import WorldState
from orchestrator.views import WorldView
from workers.errors import ConfigError
from workers.storage import Storage

Listener = Callable[[Sequence[WorldView]], None]
"""Gets the views of all worlds that are trained, after every change."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run was left."""

    run: str
    """Its folder or URI."""
    done: tuple[int, ...]
    failed: Mapping[int, str]
    """Why, by world."""
    pending: tuple[int, ...]
    error: str | None
    """Why the run ended before its time, if it did."""
    ensemble: str | None
    """Folder or URI of the ensemble; None: not merged."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is, as its storage has it."""

    config: RunConfig
    states: tuple[WorldState, ...]
    """By world, with every attempt."""
    views: tuple[WorldView, ...]
    """By world, what there is to see."""


def train(
    config: RunConfig | None = None,
    *,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    take_over: bool = False,
) -> RunSummary:
    """Train the worlds of a run and merge them; go on with the run if it is there already.

    Ctrl-C, and SIGTERM, let every world write a checkpoint first; a second one does not.

    Args:
        config: all settings; None: those of `preset`.
        preset: a name from `conf/`, or the path of a YAML file; without `config` only.
        overrides: `key=value` settings over them.
        listener: told after every change.
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
    wanted = _anchored(wanted)
    with Lease(Storage(wanted.run), take_over=take_over) as lease:
        return _drive(wanted, lease, None, listener)


def resume(
    run: str,
    worlds: Iterable[int] | None = None,
    *,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    take_over: bool = False,
) -> RunSummary:
    """Go on with the worlds of a run that are not done, and merge.

    Args:
        run: its folder or URI.
        worlds: only these; None: all. Failed ones get fresh budgets.
        overrides: `key=value` settings, of those that may change while a run lives.
        listener: told after every change.
        take_over: drive the run even if another driver seems to.

    Raises:
        RunError: if there is no such run or world, or it is driven already.
        KeyboardInterrupt: after a stop that was asked for.
    """
    opened = Run.open(run)
    with Lease(opened.storage, take_over=take_over) as lease:
        wanted = override(_config_of(Run.open(run)), overrides)
        return _drive(wanted, lease, worlds, listener)


def status(run: str) -> RunStatus:
    """Return how far a run is; reads its storage and changes nothing.

    Raises:
        RunError: there is no such run.
    """
    opened = Run.open(run)
    return RunStatus(
        config=_config_of(opened),
        states=tuple(opened.states()),
        views=tuple(views.of_run(opened)),
    )


def merge(run: str, *, min_worlds: int | None = None) -> str:
    """Merge the worlds of a run that are done; return the folder or URI of the ensemble.

    Args:
        run: its folder or URI.
        min_worlds: how many must be done; None: as the run's settings say.

    Raises:
        RunError: if there is no such run, or fewer worlds are done.
    """
    return reducer.merge(_config_of(Run.open(run)), min_worlds=min_worlds)


def _drive(
    config: RunConfig, lease: Lease, worlds: Iterable[int] | None, listener: Listener | None
) -> RunSummary:
    shards = open_inputs(config)
    run = Run.create(config.run, config.identity(), config.settings())
    run.check_dataset(shards.fingerprint())
    chosen = range(run.worlds) if worlds is None else sorted(set(worlds))
    left = [world for world in chosen if run.state(world).status != "done"]
    tell = listener or (lambda views: None)
    with closing(_executor(config, len(left))) as executor:
        driver = Driver(
            run,
            executor,
            retry=config.retry,
            max_parallel=config.cluster.max_parallel,
            pending_timeout=config.cluster.pending_timeout,
            only=chosen,
            listener=lambda statuses: tell(views.of_driver(statuses, config.training.batch_size)),
            heartbeat=lease.renew,
        )
        with _stops(driver) as interrupted:
            summary = driver.run_to_end()
    if interrupted() and not summary.complete:
        raise KeyboardInterrupt
    return _merged(config, run, summary)


def _merged(config: RunConfig, run: Run, summary: Summary) -> RunSummary:
    """Return the summary, after merging if enough worlds are done."""
    done = sum(state.status == "done" for state in run.states())
    enough = done >= (config.merge.min_worlds or config.worlds)
    return RunSummary(
        run=config.run,
        done=summary.done,
        failed=summary.failed,
        pending=summary.pending,
        error=summary.error,
        ensemble=reducer.merge(config) if enough else None,
    )


def _executor(config: RunConfig, worlds: int) -> Executor:
    """Return where `worlds` worlds train; none of them need no cluster."""
    cluster = config.cluster
    if cluster.address == "none" or not worlds:
        return InProcessExecutor(config.run, config.world_config())
    from orchestrator.executors.ray import RayExecutor

    return RayExecutor(
        config.run,
        config.world_config(),
        worlds=worlds,
        address=cluster.address,
        gpus_per_world=cluster.gpus_per_world,
        cpus_per_world=cluster.cpus_per_world,
    )


@contextmanager
def _stops(driver: Driver) -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a stop with checkpoints, a second one into an end at once."""
    count = 0

    def handle(number: int, frame: Any) -> None:
        nonlocal count
        count += 1
        if count == 1:
            driver.stop()
        else:
            driver.kill()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: count > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _config_of(run: Run) -> RunConfig:
    return RunConfig.from_parts(run.uri, run.identity, run.settings)


def _anchored(config: RunConfig) -> RunConfig:
    """Return `config` with absolute paths: attempts run in other folders, maybe elsewhere."""
    data = config.data
    return replace(
        config,
        run=Storage(config.run).uri,
        data=replace(
            data,
            train=_absolute(data.train),
            validation=data.validation and _absolute(data.validation),
            class_names=data.class_names and _absolute(data.class_names),
        ),
    )


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())
