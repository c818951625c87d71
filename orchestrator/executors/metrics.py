"""The worlds as metrics of Ray, which every Ray cluster exports to Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray
from ray.util.metrics import Counter, Gauge

from orchestrator.rollup import STATES, totals

if TYPE_CHECKING:
    from orchestrator.config import RunConfig
    from orchestrator.driving import RunSummary
    from orchestrator.views import WorldView

_GAUGES = {
    "step": "Training steps of a world",
    "rows_per_second": "Rows that a world trains on in a second; 0: it does not run",
    "loss": "Training loss of a world",
    "bucket_accuracy": "Share of validation rows whose likeliest bucket holds a label",
}


class RayMetrics:
    """Gauges of each world, tagged by run and world; worlds by state; attempts by how they ended.

    Their names in Prometheus: ray_manyworlds_step, ray_manyworlds_loss, and so on.
    """

    def __init__(self) -> None:
        tags = ("run", "world")
        self._gauges = {
            name: Gauge(f"manyworlds_{name}", words, tag_keys=tags)
            for name, words in _GAUGES.items()
        }
        self._worlds = Gauge("manyworlds_worlds", "Worlds in a state", tag_keys=("run", "state"))
        self._attempts = Counter(
            "manyworlds_attempts", "Attempts that ended", tag_keys=("run", "world", "cause")
        )
        self._run = ""
        self._ends: dict[int, int] = {}

    def begin(self, run: RunConfig) -> None:
        """Remember which run this is."""
        self._run = run.run

    def saw(self, views: Sequence[WorldView]) -> None:
        """Set what is known of each world, and count the attempts that ended since."""
        # Ray records nothing once the executor has left the cluster.
        if not ray.is_initialized():
            return
        for view in views:
            self._set(view)
            self._count(view)
        counts = totals(views).counts
        for state in STATES:
            self._worlds.set(counts.get(state, 0), {"run": self._run, "state": state})

    def end(self, summary: RunSummary) -> None:
        """Do nothing: the cluster forgets the metrics of a driver that left."""

    def _set(self, view: WorldView) -> None:
        tags = {"run": self._run, "world": str(view.world)}
        for name, gauge in self._gauges.items():
            value = getattr(view, name)
            if name == "rows_per_second" and view.state != "running":
                value = 0.0
            if value is not None:
                gauge.set(value, tags)

    def _count(self, view: WorldView) -> None:
        # At first: what ended before this driver's time is counted by no other.
        before = self._ends.setdefault(view.world, view.ends)
        if view.ends > before:
            tags = {"run": self._run, "world": str(view.world), "cause": view.ended}
            self._attempts.inc(view.ends - before, tags)
            self._ends[view.world] = view.ends
