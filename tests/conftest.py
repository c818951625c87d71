"""What every test shares: fixed seeds, a quiet Ray, property tests that repeat exactly."""

from __future__ import annotations

import os
import zlib

from tests.ray_environment import RAY_ENVIRONMENT

# Before Ray is imported.
os.environ.update(RAY_ENVIRONMENT)

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

if not torch.cuda.is_available():
    # Before Triton is imported: kernels for GPUs run on the CPU then, and slowly.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator whose seed is the test's own name: the same in any order."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def seeded_torch(request: pytest.FixtureRequest) -> None:
    """Seed Torch's global generator likewise, for tests that draw from it."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
