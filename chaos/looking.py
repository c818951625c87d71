"""What a run's storage tells of its worlds, while they train and afterwards."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.run import Run
from orchestrator.state import Cause
from workers.errors import ManyworldsError
from workers.storage import COMMIT

INTERVAL = 40
"""Steps between two checkpoints."""
REPORTS = 5
"""Steps between two reports: how exactly it is known how far a process was when it died."""

PROCESS = re.compile(r" began on .*, process (\d+)$", re.MULTILINE)
RESUMED = re.compile(r"resumed from \S+/checkpoints/(\d+), ")
"""The lines of an attempt's log that tell its process, and the step that it went on from."""


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt at a world, as its files tell of it."""

    world: int
    name: str
    process: int
    """Its id; 0: its log does not tell, or not yet."""
    start: int
    """The step that it went on from."""
    furthest: int
    """The last step that it reported."""


class Look:
    """Looks at the run in a folder, which others write meanwhile."""

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run)

    @property
    def run(self) -> Run:
        """The run, as it is now."""
        return Run.open(str(self.folder))

    def tries(self, world: int) -> list[Try]:
        """Return the attempts of which there are files, oldest first."""
        with contextlib.suppress(ManyworldsError):
            run = self.run
            return [self._try(run, world, name) for name in run.paths.attempts(world)]
        return []

    def running(self, world: int, *, step: int = 0, number: int = 1) -> Try | None:
        """Return the newest attempt once it is the given one, or later, and made `step` steps."""
        found = self.tries(world)
        if len(found) >= number and found[-1].process and found[-1].furthest >= step:
            return found[-1]
        return None

    def causes(self, world: int) -> list[Cause | None]:
        """Return how each attempt that the driver knows of ended, oldest first."""
        return [attempt.cause for attempt in self.run.state(world).attempts]

    def done_twice(self, world: int) -> list[int]:
        """Return for each attempt after the first the steps that had been made before it."""
        lost, furthest = [], 0
        for number, found in enumerate(self.tries(world)):
            if number and found.furthest:
                lost.append(max(0, furthest - found.start))
            furthest = max(furthest, found.furthest)
        return lost

    def log(self, world: int, name: str) -> str:
        """Return an attempt's log; empty if there is none yet."""
        with contextlib.suppress(OSError):
            return (self._attempt(world, name) / "log.txt").read_text()
        return ""

    def newest_log(self, world: int) -> str:
        """Return the log of a world's newest attempt; empty if there is none yet."""
        found = self.tries(world)
        return self.log(world, found[-1].name) if found else ""

    def _attempt(self, world: int, name: str) -> Path:
        return self.folder / "worlds" / f"{world:03d}" / "attempts" / name

    def _try(self, run: Run, world: int, name: str) -> Try:
        log = self.log(world, name)
        process, resumed = PROCESS.search(log), RESUMED.search(log)
        start = int(resumed[1]) if resumed else 0
        steps = [start, *self._steps(world, name)]
        return Try(world, name, int(process[1]) if process else 0, start, max(steps))

    def _steps(self, world: int, name: str) -> list[int]:
        files = sorted((self._attempt(world, name) / "metrics").glob("*.jsonl"))
        found = []
        for path in files[-3:]:
            # One may be half there: an object store's server writes in place.
            with contextlib.suppress(ValueError, OSError):
                found += [int(json.loads(line)["step"]) for line in path.read_text().splitlines()]
        return found


def hashes(uri: str, worlds: Sequence[int]) -> dict[int, str]:
    """Return the sha256 of the weights of worlds that are done, every byte of them read."""
    run = Run.open(uri)
    found = {}
    for world in worlds:
        finished = run.finished(world)
        assert finished, f"world {world} is not done: {run.state(world)}"
        folder = run.paths.final(world, finished[0])
        manifest = run.storage.verify(folder)
        receipt = json.loads(run.storage.read_committed(folder, "receipt.json"))
        assert receipt["model_sha256"] == manifest.files["model.safetensors"].sha256
        found[world] = str(receipt["model_sha256"])
    return found


def check_whole(uri: str) -> int:
    """Read every committed file of a run and check it; return the number of commits."""
    run = Run.open(uri)
    commits = [path for path in run.storage.sizes() if path.endswith(f"/{COMMIT}")]
    for path in commits:
        run.storage.verify(path.removesuffix(f"/{COMMIT}"))
    run.states()
    return len(commits)
