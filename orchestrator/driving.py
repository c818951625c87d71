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
from orchestrator.driver import Driver, Summary
from orchestrator.executors import Executor, InProcessExecutor
from orchestrator.inputs import open_inputs
from orchestrator.lease import Lease
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
    config: RunConfig, lease: Lease, worlds: Iterable[int] | None, listener: Listener | None
) -> RunSummary:
    """Make the run if it is not there, train its worlds, and merge them.

    Args:
        config: all settings.
        lease: of the run, held by this process.
        worlds: only these; None: all.
        listener: told after every change.

    Raises:
        DataError: for training data that cannot be trained on.
        RunError: if the run is another one than the settings make, or another driver took over.
        KeyboardInterrupt: after a stop that a signal asked for.
    """
    shards = open_inputs(config)
    run = Run.create(config.run, config.identity(), config.settings())
    run.check_dataset(shards.fingerprint())
    chosen = range(run.worlds) if worlds is None else sorted(set(worlds))
    left = [world for world in chosen if run.accept(world)[0] is None]
    tell = listener or (lambda views: None)
    requests = Requests(run.storage, lease.token)

    def heartbeat() -> None:
        lease.renew()
        if requests.look():
            driver.stop()

    with closing(_executor(config, len(left))) as executor:
        driver = Driver(
            run,
            executor,
            retry=config.retry,
            max_parallel=config.cluster.max_parallel,
            pending_timeout=config.cluster.pending_timeout,
            spending=Spending(config.budget.gpu_hours, executor.gpus_per_world),
            only=chosen,
            listener=lambda statuses: tell(views.of_driver(statuses, config.training.batch_size)),
            heartbeat=heartbeat,
        )
        with _stops(driver) as interrupted:
            summary = driver.run_to_end()
    stopping.withdraw(run.storage, lease.token)
    if interrupted() and not summary.complete:
        raise KeyboardInterrupt
    return _merged(config, run, summary, requests.found)


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
