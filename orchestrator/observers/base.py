"""What an observer of a run is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestrator.config import RunConfig
    from orchestrator.driving import RunSummary
    from orchestrator.views import WorldView


CURVES = ("loss", "bucket_accuracy", "rows_per_second")
"""What of a `WorldView` is drawn over its steps."""


class Observer(Protocol):
    """Is told how a run goes.

    Each observer has a thread of its own, which calls it in this order: one that is slow, waits
    for a server or raises holds up neither the run nor other observers. One that raises is told
    nothing more.
    """

    def begin(self, run: RunConfig) -> None:
        """Take in that the run of these settings begins, or goes on."""

    def saw(self, views: Sequence[WorldView]) -> None:
        """Take in the present state of all worlds that are trained; called after every change."""

    def end(self, summary: RunSummary) -> None:
        """Take in how the run was left."""
