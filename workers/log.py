"""What an attempt tells in files: its log, its progress and its metrics.

A thread writes them, so that no step waits for the storage. Trouble with them
ends no attempt: what could not be written is kept and written with what comes next.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from typing import Any, Literal

from workers.background import start
from workers.storage import RunPaths

LINES = 1000
"""How many lines of the log are kept, the newest."""
_UNSAVED_METRICS = 10_000
"""How many lines of metrics wait for a storage that fails, the newest."""

Level = Literal["INFO", "WARNING", "ERROR"]


class AttemptLog:
    """`log.txt`, `progress.json` and `metrics/` of one attempt.

    Object stores have no append: `log.txt` is written anew at each event.

    Args:
        paths: of the run.
        world: its index.
        attempt: the name of the attempt's folder.
        clock: seconds since 1970.
    """

    def __init__(
        self, paths: RunPaths, world: int, attempt: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.trouble: str | None = None
        """Why the files could not be written when that was last tried, or None."""
        self._storage = paths.storage
        self._log_path = paths.log(world, attempt)
        self._progress_path = paths.progress(world, attempt)
        self._metrics_path = paths.metrics(world, attempt)
        self._clock = clock
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._metrics: deque[bytes] = deque(maxlen=_UNSAVED_METRICS)
        self._progress: dict[str, Any] | None = None
        self._lines_are_new = False
        self._busy = False
        self._writing: Future[None] | None = None

    def info(self, message: str) -> None:
        """Log what went as it should."""
        self._say("INFO", message)

    def warning(self, message: str) -> None:
        """Log what went wrong without ending the attempt."""
        self._say("WARNING", message)

    def error(self, message: str) -> None:
        """Log what ended the attempt."""
        self._say("ERROR", message)

    def progress(self, values: dict[str, Any]) -> None:
        """Write the fields of `workers.world.Progress` as the newest, and to the metrics."""
        with self._lock:
            self._progress = values
            self._metrics.append(json.dumps(values).encode() + b"\n")
        self._write_soon()

    def close(self) -> None:
        """Return when all was written, or could not be."""
        if self._writing:
            wait([self._writing])

    def _say(self, level: Level, message: str) -> None:
        moment = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        first, *more = message.splitlines() or [""]
        with self._lock:
            self._lines.append(f"{moment} {level:<7} {first}")
            self._lines.extend(f"    {line}" for line in more)
            self._lines_are_new = True
        self._write_soon()

    def _write_soon(self) -> None:
        with self._lock:
            if not self._busy:
                self._busy = True
                self._writing = start(self._write_all, "manyworlds-log")

    def _write_all(self) -> None:
        try:
            while write := self._next():
                write()
                self.trouble = None
        except Exception as error:
            # Whatever it is: no attempt ends because it could not tell how it goes.
            self.trouble = f"log and progress could not be written: {error}"
            with self._lock:
                self._busy = False

    def _next(self) -> Callable[[], None] | None:
        # What writes one file that has something new.
        with self._lock:
            if self._lines_are_new:
                return self._write_log
            if self._progress is not None:
                return self._write_progress
            if self._metrics:
                return self._write_metrics
            self._busy = False
            return None

    def _write_log(self) -> None:
        with self._lock:
            lines, self._lines_are_new = list(self._lines), False
        try:
            self._storage.write_bytes(self._log_path, ("\n".join(lines) + "\n").encode())
        except BaseException:
            with self._lock:
                self._lines_are_new = True
            raise

    def _write_progress(self) -> None:
        values = self._progress
        assert values is not None
        self._storage.write_json(self._progress_path, values)
        with self._lock:
            if self._progress is values:
                self._progress = None

    def _write_metrics(self) -> None:
        with self._lock:
            lines = list(self._metrics)
        self._storage.append(self._metrics_path, b"".join(lines), ".jsonl")
        written = {id(line) for line in lines}
        with self._lock:
            # Those that came meanwhile stay; a full queue may have dropped some of these.
            while self._metrics and id(self._metrics[0]) in written:
                self._metrics.popleft()
