"""Where attempts run: as Ray actors, or in this process.

`orchestrator.executors.ray` is imported by its full name, so that nothing else
needs Ray.
"""

from orchestrator.executors.base import (
    AttemptFunction,
    Ended,
    Event,
    Executor,
    Progress,
    Started,
)
from orchestrator.executors.inprocess import InProcessExecutor

__all__ = [
    "AttemptFunction",
    "Ended",
    "Event",
    "Executor",
    "InProcessExecutor",
    "Progress",
    "Started",
]
