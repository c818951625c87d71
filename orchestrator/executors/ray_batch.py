"""Batch predictions with Ray Data: one predictor on each machine, shards streamed to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.executors import cluster
from workers import errors
from workers.errors import ConfigError, ManyworldsError, RunError


class _Predictor:
    """A predictor that takes rows of Ray Data."""

    def __init__(self, make: Callable[[], Callable[[int], int]]) -> None:
        self._make = make
        self._predict: Callable[[int], int] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # Not when it is constructed, and no exception: Ray would not tell what it was.
        try:
            self._predict = self._predict or self._make()
            return {"rows": self._predict(int(row["shard"])), "error": "", "message": ""}
        except ManyworldsError as error:
            return {"rows": 0, "error": type(error).__name__, "message": str(error)}


def predict_shards(
    make: Callable[[], Callable[[int], int]], shards: list[int], address: str
) -> Iterator[int]:
    """Have shards predicted, and yield the rows of each as it is done.

    As many predictors as there are machines, each with as many CPUs as the smallest has: on
    machines that are alike, weights are in memory once a machine.

    Args:
        make: called once on each machine, makes what predicts a shard and returns its rows.
        shards: by number.
        address: of the cluster, as `cluster.address`.

    Raises:
        ConfigError: if Ray Data is not installed.
        ManyworldsError: what a predictor raised.
        RunError: if the cluster cannot be reached, or is too small.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"batch prediction: expected Ray Data, found none ({error}); install"
            " 'manyworlds[batch]', or use cluster=none"
        ) from error
    connected = cluster.connect(address)
    try:
        machines = [machine for machine in cluster.machines().values() if machine.cpus >= 1]
        if not machines:
            raise RunError("expected a machine with a CPU in the cluster, found none")
        cpus = min(int(machine.cpus) for machine in machines)
        gpus = 1 if all(machine.gpus >= 1 for machine in machines) else 0
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        items = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
        )
        mapped = items.map(
            _Predictor,  # type: ignore[arg-type]
            fn_constructor_args=(make,),
            compute=ray.data.ActorPoolStrategy(size=min(len(machines), len(shards))),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        for row in mapped.iter_rows():
            if row["error"]:
                kind: type[ManyworldsError] = getattr(errors, row["error"])
                raise kind(row["message"])
            yield int(row["rows"])
    finally:
        if connected:
            ray.shutdown()
