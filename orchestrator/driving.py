"""Drive a run: from its settings to trained worlds and their ensemble."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator import reducer, stopping, views
from orchestrator.config import RunConfig
from orchestrator.driver import Driver, Summary, WorldStatus
from orchestrator.executors import Executor, InProcessExecutor
from orchestrator.executors.base import explain
from orchestrator.inputs import open_inputs
from orchestrator.lease import Lease
from orchestrator.observers import Observer
from orchestrator.observers.beside import Watchers
from orchestrator.observers.chosen import chosen
from orchestrator.run import Run
from orchestrator.spending import Spending
from orchestrator.stopping import Request, Requests
from orchestrator.views import WorldView

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
    stopped: str | None = None
    """Who asked the driver to stop, and when, if that ended the run before its time."""


def drive(
    config: RunConfig,
    lease: Lease,
    worlds: Iterable[int] | None,
    listener: Listener | None,
    observers: Sequence[Observer] = (),
) -> RunSummary:
    """Make the run if it is not there, train its worlds, and merge them.

    Args:
        config: all settings.
        lease: of the run, held by this process.
        worlds: only these; None: all.
        listener: told after every change.
        observers: told likewise, beside those that the settings ask for.

    Raises:
        ConfigError: for observers that are not there.
        DataError: for training data that cannot be trained on.
        RunError: if the run is another one than the settings make, or another driver took over.
        KeyboardInterrupt: after a stop that a signal asked for.
    """
    watchers = Watchers([*chosen(config), *observers])
    try:
        summary = _drive(config, lease, worlds, listener or (lambda views: None), watchers)
    except BaseException as error:
        watchers.end(_broken_off(config, watchers.seen, error))
        raise
    watchers.end(summary)
    return summary


def _drive(
    config: RunConfig,
    lease: Lease,
    worlds: Iterable[int] | None,
    listener: Listener,
    watchers: Watchers,
) -> RunSummary:
    shards = open_inputs(config)
    run = Run.create(config.run, config.identity(), config.settings())
    run.check_dataset(shards.fingerprint())
    wanted = run.chosen(worlds)
    left = [world for world in wanted if run.accept(world)[0] is None]
    requests = Requests(run.storage, lease.token)

    def heartbeat() -> None:
        lease.renew()
        if requests.look():
            driver.stop()

    def tell(statuses: Sequence[WorldStatus]) -> None:
        found = views.of_driver(statuses, config.training)
        listener(found)
        watchers.saw(found)

    with closing(_executor(config, len(left), watchers)) as executor:
        driver = Driver(
            run,
            executor,
            retry=config.retry,
            max_parallel=config.cluster.max_parallel,
            pending_timeout=config.cluster.pending_timeout,
            spending=Spending(config.budget.gpu_hours, executor.gpus_per_world),
            only=wanted,
            listener=tell,
            heartbeat=heartbeat,
        )
        watchers.begin(config)
        with _stops(driver) as interrupted:
            summary = driver.run_to_end()
        # Before the executor leaves the cluster, where some of them write to.
        watchers.catch_up()
    stopping.withdraw(run.storage, lease.token)
    if interrupted() and not summary.complete:
        raise KeyboardInterrupt
    return _merged(config, run, summary, requests.found)


def _broken_off(config: RunConfig, seen: Sequence[WorldView], error: BaseException) -> RunSummary:
    """Return how a run was left by a driver that raised `error`."""
    stopped = isinstance(error, KeyboardInterrupt)
    return RunSummary(
        run=config.run,
        done=tuple(view.world for view in seen if view.state == "done"),
        failed={view.world: view.cause for view in seen if view.state == "failed"},
        pending=tuple(view.world for view in seen if view.state not in ("done", "failed")),
        error=None if stopped else explain(error),
        ensemble=None,
        stopped="by a signal" if stopped else None,
    )


def _merged(config: RunConfig, run: Run, summary: Summary, request: Request | None) -> RunSummary:
    """Return the summary, after merging if enough worlds are done and nobody asked for a stop."""
    stopped = None if summary.complete or request is None else str(request)
    done = sum(state.status == "done" for state in run.states())
    enough = done >= (config.merge.min_worlds or config.worlds) and not stopped
    return RunSummary(
        run=config.run,
        done=summary.done,
        failed=summary.failed,
        pending=summary.pending,
        error=summary.error,
        ensemble=reducer.merge(config) if enough else None,
        stopped=stopped,
    )


def _executor(config: RunConfig, worlds: int, watchers: Watchers) -> Executor:
    """Return where `worlds` worlds train; none of them need no cluster.

    A cluster's own metrics are told how the run goes, too.
    """
    cluster = config.cluster
    if cluster.address == "none" or not worlds:
        return InProcessExecutor(config.run, config.world_config())
    from orchestrator.executors.metrics import RayMetrics
    from orchestrator.executors.ray import RayExecutor

    executor = RayExecutor(
        config.run,
        config.world_config(),
        worlds=worlds,
        address=cluster.address,
        gpus_per_world=cluster.gpus_per_world,
        cpus_per_world=cluster.cpus_per_world,
        wanted=cluster.max_parallel or 0,
        choices=cluster.machines,
    )
    watchers.add(RayMetrics())
    return executor


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
