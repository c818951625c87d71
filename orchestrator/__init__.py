"""The run: many worlds trained on Ray, merged into one ensemble that answers.

    from orchestrator import train, Ensemble

    summary = train(preset="quickstart", overrides=["run=runs/a", "data.train=rows", ...])
    Ensemble.load(summary.ensemble).predict(["a query"], k=10)

Names are imported when they are first used, so that an ensemble is loaded and
asked without importing Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import resume, train
    from orchestrator.config import RunConfig
    from orchestrator.config import load as load_config
    from orchestrator.ensemble.ensemble import Ensemble

__all__ = ["Ensemble", "RunConfig", "load_config", "resume", "train"]

_HOMES = {
    "Ensemble": ("orchestrator.ensemble.ensemble", "Ensemble"),
    "RunConfig": ("orchestrator.config", "RunConfig"),
    "load_config": ("orchestrator.config", "load"),
    "resume": ("orchestrator.api", "resume"),
    "train": ("orchestrator.api", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
