"""Where attempts run: as Ray actors, or in this process.

`orchestrator.executors.ray` is imported by its full name, so that nothing else
needs Ray.
"""

from orchestrator.executors.base import (
    AttemptFunction,
    Beat,
    Ended,
    Event,
    Executor,
    Leaving,
    Progress,
    Started,
)
from orchestrator.executors.inprocess import InProcessExecutor

__all__ = [
    "AttemptFunction",
    "Beat",
    "Ended",
    "Event",
    "Executor",
    "InProcessExecutor",
    "Leaving",
    "Progress",
    "Started",
]
