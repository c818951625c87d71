"""The names of all files of a run, and what is already there of it.

RUN/
  identity.yaml, settings/0001.yaml ..., dataset.json, driver.json, stop.json
  worlds/007/
    state.json
    attempts/03-x7f2/
      progress.json, metrics/0001.jsonl ..., log.txt
      checkpoints/00012000/{model.safetensors, optimizer.safetensors, state.json, COMMIT}
      final/{model.safetensors, receipt.json, content.json, COMMIT}
  ensembles/<digest>/{manifest.json, world-000.safetensors ..., COMMIT}
  ensembles/CURRENT
  evaluations/0001.json ...
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from workers.storage.files import Storage
from workers.storage.formats import Manifest

_ATTEMPT = re.compile(r"(\d{2,})-[0-9a-z]+")
_CHECKPOINT = re.compile(r"\d{8,}")


class Checkpoint(NamedTuple):
    """A committed checkpoint: its folder in the run, and the steps made by then."""

    folder: str
    step: int


class RunPaths:
    """Names every file of the run in `storage`, relative to it."""

    identity = "identity.yaml"
    settings = "settings"
    """Folder of numbered files; the newest wins."""
    dataset = "dataset.json"
    lease = "driver.json"
    stop = "stop.json"
    """Asks the driver that holds the lease to stop."""
    ensembles = "ensembles"
    current = "ensembles/CURRENT"
    """Names the ensemble that is served."""
    evaluations = "evaluations"
    """Folder of numbered files, what the run's ensembles were measured to be; the newest last."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def world(self, world: int) -> str:
        """Return the folder of a world."""
        return f"worlds/{world:03d}"

    def state(self, world: int) -> str:
        """Return the file in which the driver keeps how far a world is."""
        return f"{self.world(world)}/state.json"

    def attempt(self, world: int, attempt: str) -> str:
        """Return the folder that only this attempt writes."""
        return f"{self.world(world)}/attempts/{attempt}"

    def progress(self, world: int, attempt: str) -> str:
        """Return the file with the newest progress of an attempt."""
        return f"{self.attempt(world, attempt)}/progress.json"

    def metrics(self, world: int, attempt: str) -> str:
        """Return the folder of numbered metrics files, one a flush (`Storage.append`)."""
        return f"{self.attempt(world, attempt)}/metrics"

    def log(self, world: int, attempt: str) -> str:
        """Return the log file of an attempt."""
        return f"{self.attempt(world, attempt)}/log.txt"

    def checkpoint(self, world: int, attempt: str, step: int) -> str:
        """Return the folder of the checkpoint after `step` steps."""
        return f"{self.attempt(world, attempt)}/checkpoints/{step:08d}"

    def final(self, world: int, attempt: str) -> str:
        """Return the folder of the trained weights and the receipt."""
        return f"{self.attempt(world, attempt)}/final"

    def ensemble(self, digest: str) -> str:
        """Return the folder of an ensemble."""
        return f"{self.ensembles}/{digest}"

    @staticmethod
    def attempt_name(number: int, token: str) -> str:
        """Return the name of a world's attempt; numbers count from 1."""
        return f"{number:02d}-{token}"

    @staticmethod
    def is_attempt(name: str) -> bool:
        """Return whether `attempt_name` can have made a name."""
        return _ATTEMPT.fullmatch(name) is not None

    @staticmethod
    def attempt_number(attempt: str) -> int:
        """Return the number in an attempt's name."""
        return int(attempt.split("-")[0])

    def attempts(self, world: int) -> list[str]:
        """Return the names of the attempts that wrote anything, oldest first."""
        names = self.storage.list(f"{self.world(world)}/attempts")
        found = [name for name in names if self.is_attempt(name)]
        return sorted(found, key=lambda name: (self.attempt_number(name), name))

    def checkpoints(self, world: int) -> Iterator[Checkpoint]:
        """Yield the committed checkpoints of all attempts, the furthest first.

        Raises:
            SchemaError: another version wrote one of them.
        """
        found = [
            Checkpoint(self.checkpoint(world, attempt, int(name)), int(name))
            for attempt in self.attempts(world)
            for name in self.storage.list(f"{self.attempt(world, attempt)}/checkpoints")
            if _CHECKPOINT.fullmatch(name)
        ]
        for candidate in sorted(reversed(found), key=lambda item: -item.step):
            if self.storage.committed(candidate.folder):
                yield candidate

    def newest_checkpoint(self, world: int) -> Checkpoint | None:
        """Return the committed checkpoint with the most steps over all attempts, or None."""
        return next(self.checkpoints(world), None)

    def finished(self, world: int) -> tuple[str, Manifest] | None:
        """Return the earliest attempt with a committed `final/`, and what is in it, or None."""
        for attempt in self.attempts(world):
            if manifest := self.storage.committed(self.final(world, attempt)):
                return attempt, manifest
        return None
