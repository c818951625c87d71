"""What every test shares: fixed seeds, a quiet Ray, property tests that repeat exactly."""

from __future__ import annotations

import os
import zlib

# Ray reads these when it is imported, and hands them to the processes that it starts.
os.environ.update(
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_DEDUP_LOGS="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_USAGE_STATS_ENABLED="0",
    # Seconds; a machine that is busy with something else starts slowly.
    RAY_raylet_start_wait_time_s="300",
    RAY_worker_register_timeout_seconds="300",
)

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# No deadline and no check of slowness: a busy machine must not fail a test.
settings.register_profile(
    "manyworlds",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("manyworlds")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator whose seed is the test's own name: the same in any order."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def seeded_torch(request: pytest.FixtureRequest) -> None:
    """Seed Torch's global generator likewise, for tests that draw from it."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
