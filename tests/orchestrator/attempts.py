"""Attempt functions for tests, which take all that they are told as one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.executors import AttemptFunction
from orchestrator.executors.base import Report, Stop
from workers.config import WorldConfig
from workers.storage import RunPaths, Storage


@dataclass(frozen=True, slots=True)
class Call:
    """What an executor calls an attempt function with."""

    run_uri: str
    config: WorldConfig
    world: int
    attempt: str
    stop: Stop
    report: Report
    beat: Callable[[], None]

    def commit(self, step: int | None = None) -> dict[str, Any]:
        """Commit a checkpoint of a step, or the world's weights; return a receipt."""
        paths = RunPaths(Storage(self.run_uri))
        folder = paths.final(self.world, self.attempt)
        if step:
            folder = paths.checkpoint(self.world, self.attempt, step)
        paths.storage.commit(folder, {"model.safetensors": b"weights"})
        return {"world": self.world, "attempt": self.attempt}

    def pass_to(self, function: AttemptFunction) -> Any:
        """Call another attempt function with the same."""
        words: Any = {"stop": self.stop, "report": self.report, "beat": self.beat}
        return function(self.run_uri, self.config, self.world, self.attempt, **words)


def attempt(function: Callable[[Call], Any]) -> AttemptFunction:
    """Return the attempt function that calls `function` with one `Call`."""

    @functools.wraps(function)
    def called(
        run_uri: str,
        config: WorldConfig,
        world: int,
        attempt: str,
        *,
        stop: Stop,
        report: Report,
        beat: Callable[[], None],
    ) -> Any:
        return function(Call(run_uri, config, world, attempt, stop, report, beat))

    return called
