"""Read by every Python that has this folder on its path: steps that last, and a wrong clock.

`CHAOS_STEP_SECONDS` makes each training step wait, so that tiny worlds train as long as it
takes to hit them, on fast and on busy machines alike. `CHAOS_CLOCK_SECONDS` sets this
process's time of day so many seconds ahead.
"""

from __future__ import annotations

import datetime
import functools
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any


class _Slowed:
    """Finds the module that holds the training step, and lets its steps wait."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "workers.classifier":
            return None
        # Once; the search below comes by here again.
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec and spec.loader
        load = spec.loader.exec_module

        def load_slowed(module: ModuleType) -> None:
            load(module)
            self._slow_down(module.BucketClassifier)

        spec.loader.exec_module = load_slowed  # type: ignore[method-assign]
        return spec

    def _slow_down(self, classifier: Any) -> None:
        step = classifier.train_step

        @functools.wraps(step)
        def waiting(*args: Any, **words: Any) -> Any:
            time.sleep(self._seconds)
            return step(*args, **words)

        classifier.train_step = waiting


def _set_clock(ahead: float) -> None:
    """Shift what Python tells as the time of day; what counts seconds stays."""
    now, now_ns, true_now = time.time, time.time_ns, datetime.datetime.now

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return true_now(tz) + datetime.timedelta(seconds=ahead)

    time.time = lambda: now() + ahead
    time.time_ns = lambda: now_ns() + int(ahead * 1e9)
    datetime.datetime = Shifted  # type: ignore[misc]


if seconds := float(os.environ.get("CHAOS_STEP_SECONDS", 0)):
    sys.meta_path.insert(0, _Slowed(seconds))
if ahead := float(os.environ.get("CHAOS_CLOCK_SECONDS", 0)):
    _set_clock(ahead)
