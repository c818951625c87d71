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


ON_RAY = ("tests/cluster", "tests/docker")
"""Folders of tests that start clusters: a machine has one at a time."""
GROUP = "ray"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests on Ray in one of the processes that share all tests, and let it begin."""
    folders = tuple(config.rootpath / folder for folder in ON_RAY)
    on_ray = {item for item in items if any(item.path.is_relative_to(f) for f in folders)}
    for item in on_ray:
        item.add_marker(pytest.mark.xdist_group(GROUP))
    items.sort(key=lambda item: item not in on_ray)


def _seed(request: pytest.FixtureRequest) -> int:
    return zlib.crc32(request.node.nodeid.removesuffix(f"@{GROUP}").encode())


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator whose seed is the test's own name: the same in any order."""
    return np.random.default_rng(_seed(request))


@pytest.fixture(autouse=True)
def seeded_torch(request: pytest.FixtureRequest) -> None:
    """Seed Torch's global generator likewise, for tests that draw from it."""
    torch.manual_seed(_seed(request))
