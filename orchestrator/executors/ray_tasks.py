"""Numbered tasks with Ray Data: workers on all machines, tasks streamed to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.executors import cluster
from workers import errors
from workers.errors import ConfigError, ManyworldsError, RunError

Work = Callable[[int], int]
"""Does a task, by its number, and returns a count."""


class _Worker:
    """Work that takes rows of Ray Data."""

    def __init__(self, make: Callable[[], Work]) -> None:
        self._make = make
        self._work: Work | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # Not when it is constructed, and no exception: Ray would not tell what it was.
        try:
            self._work = self._work or self._make()
            return {"count": self._work(int(row["task"])), "error": "", "message": ""}
        except ManyworldsError as error:
            return {"count": 0, "error": type(error).__name__, "message": str(error)}


def run_tasks(
    make: Callable[[], Work], tasks: list[int], address: str, *, whole_machines: bool
) -> Iterator[int]:
    """Have tasks done, and yield the count of each as it is done.

    Args:
        make: called once in each worker.
        tasks: by number.
        address: of the cluster, as `cluster.address`.
        whole_machines: as many workers as there are machines, each with a GPU if all have one and
            as many CPUs as the smallest has: for work that has threads, and much in memory. Else
            as many as there are CPUs.

    Raises:
        ConfigError: if Ray Data is not installed.
        ManyworldsError: what a task raised.
        RunError: if the cluster cannot be reached, or is too small.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"expected Ray Data, found none ({error}); install 'manyworlds[batch]', or use"
            " cluster=none"
        ) from error
    with cluster.connected(address):
        machines = [machine for machine in cluster.machines().values() if machine.cpus >= 1]
        if not machines:
            raise RunError("expected a machine with a CPU in the cluster, found none")
        size, cpus, gpus = sum(int(machine.cpus) for machine in machines), 1, 0
        if whole_machines:
            size, cpus = len(machines), min(int(machine.cpus) for machine in machines)
            gpus = 1 if all(machine.gpus >= 1 for machine in machines) else 0
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        items = ray.data.from_items(
            [{"task": task} for task in tasks], override_num_blocks=len(tasks)
        )
        mapped = items.map(
            _Worker,  # type: ignore[arg-type]
            fn_constructor_args=(make,),
            compute=ray.data.ActorPoolStrategy(size=min(size, len(tasks))),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        for row in mapped.iter_rows():
            if row["error"]:
                kind: type[ManyworldsError] = getattr(errors, row["error"])
                raise kind(row["message"])
            yield int(row["count"])
