"""An observer that remembers what it was told, and views to tell it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from orchestrator.config import RunConfig
from orchestrator.driving import RunSummary
from orchestrator.views import WorldView

RUN = RunConfig(run="runs/first", worlds=2)
RUNNING = WorldView(
    world=0, state="running", attempts=1, step=50, steps=100, loss=2.5, rows_per_second=10.0
)


def summary(
    *, done: Sequence[int] = (0, 1), failed: dict[int, str] | None = None,
    pending: Sequence[int] = (), error: str | None = None, ensemble: str | None = None,
    stopped: str | None = None,
) -> RunSummary:  # fmt: skip
    return RunSummary(
        run=RUN.run,
        done=tuple(done),
        failed=failed or {},
        pending=tuple(pending),
        error=error,
        ensemble=ensemble,
        stopped=stopped,
    )


class Recorder:
    """Remembers; raises at the call of a name that it is given."""

    def __init__(self, raises: str = "") -> None:
        self.calls: list[str] = []
        self.views: list[Sequence[WorldView]] = []
        self.summary: RunSummary | None = None
        self.ended = threading.Event()
        self._raises = raises

    def begin(self, run: RunConfig) -> None:
        self._called("begin")

    def saw(self, views: Sequence[WorldView]) -> None:
        self._called("saw")
        self.views.append(views)

    def end(self, summary: RunSummary) -> None:
        self._called("end")
        self.summary = summary
        self.ended.set()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self._raises:
            raise ValueError(f"no {name} today")
