"""Read by every Python that has this folder on its path: steps that last, and a wrong clock.

`CHAOS_STEP_SECONDS` makes each training step wait, so that tiny worlds train as long as it
takes to hit them, on fast and on busy machines alike. `CHAOS_CLOCK_SECONDS` sets this
process's time of day so many seconds ahead.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _Changed:
    """Finds the project's modules, and changes them once they are loaded.

    Args:
        change: gets each one.
    """

    def __init__(self, change: Callable[[ModuleType], None]) -> None:
        self._change = change

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in ("workers", "orchestrator"):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_changed(module: ModuleType) -> None:
                load(module)
                self._change(module)

            spec.loader.exec_module = load_changed  # type: ignore[method-assign]
        return spec


def _slow_down(seconds: float, module: ModuleType) -> None:
    """Let training steps wait."""
    if module.__name__ != "workers.classifier":
        return
    classifier: Any = module.BucketClassifier
    step = classifier.train_step

    @functools.wraps(step)
    def waiting(*args: Any, **words: Any) -> Any:
        time.sleep(seconds)
        return step(*args, **words)

    classifier.train_step = waiting


def _set_clock(ahead: float) -> Callable[[ModuleType], None]:
    """Shift what Python tells as the time of day; what counts seconds stays.

    The type of datetimes is another one in the project's modules alone: libraries in C know it by
    its size.
    """
    now, now_ns = time.time, time.time_ns

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=ahead)

    def shift(module: ModuleType) -> None:
        if getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]

    time.time = lambda: now() + ahead
    time.time_ns = lambda: now_ns() + int(ahead * 1e9)
    return shift


def _change(module: ModuleType) -> None:
    for change in _changes:
        change(module)


_changes: list[Callable[[ModuleType], None]] = []
if found := float(os.environ.get("CHAOS_STEP_SECONDS", 0)):
    _changes.append(functools.partial(_slow_down, found))
if found := float(os.environ.get("CHAOS_CLOCK_SECONDS", 0)):
    _changes.append(_set_clock(found))
if _changes:
    sys.meta_path.insert(0, _Changed(_change))
