"""One world: a bucket classifier, from Parquet shards to weights.

Knows nothing of Ray or of the other worlds. `World(config, index).train()`
trains one in this process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.config import (
        DataConfig,
        FeaturesConfig,
        ModelConfig,
        OptimizerConfig,
        PartitionConfig,
        RuntimeConfig,
        TrainingConfig,
        WorldConfig,
    )
    from workers.world import World

__all__ = [
    "DataConfig",
    "FeaturesConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PartitionConfig",
    "RuntimeConfig",
    "TrainingConfig",
    "World",
    "WorldConfig",
]


def __getattr__(name: str) -> Any:
    # Torch and Numba take a second to import: only whoever trains waits for them.
    if name not in __all__:
        raise AttributeError(f"module 'workers' has no attribute '{name}'")
    return getattr(import_module("workers.world" if name == "World" else "workers.config"), name)
