"""Curves and settings for MLflow, as an example of an observer: `pip install '.[mlflow]'`.

    manyworlds train ... 'watch.observers=[orchestrator.observers.mlflow:MLflow]'

MLflow itself says where to: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator import schema
from orchestrator.observers.base import CURVES

if TYPE_CHECKING:
    from orchestrator.config import RunConfig
    from orchestrator.driving import RunSummary
    from orchestrator.views import WorldView

_LONGEST = 500
"""Characters of a value that MLflow takes."""


class MLflow:
    """Makes one run of MLflow's for each time that a run is driven."""

    def __init__(self) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        self._steps: dict[int, int] = {}

    def begin(self, run: RunConfig) -> None:
        """Begin a run of MLflow's, with the settings that make the run what it is."""
        self._mlflow.start_run(
            run_name=run.run.rpartition("/")[2], tags={"manyworlds.run": run.run}
        )
        identity = {key: json.dumps(value) for key, value in schema.dotted(run.identity())}
        settings = {"worlds": run.worlds, **identity}
        self._mlflow.log_params({key: str(value)[:_LONGEST] for key, value in settings.items()})

    def saw(self, views: Sequence[WorldView]) -> None:
        """Log a point for each world that moved on."""
        for view in views:
            if view.step is None or view.step == self._steps.get(view.world):
                continue
            self._steps[view.world] = view.step
            found = {name: getattr(view, name) for name in CURVES}
            named = {f"{key}/world-{view.world:03d}": value for key, value in found.items()}
            known = {key: value for key, value in named.items() if value is not None}
            self._mlflow.log_metrics(known, step=view.step)

    def end(self, summary: RunSummary) -> None:
        """End MLflow's run, as failed if the run gave up or worlds failed."""
        self._mlflow.log_metrics({"worlds_done": len(summary.done)})
        well = not summary.failed and summary.error is None
        self._mlflow.end_run("FINISHED" if well and not summary.pending else "FAILED")
