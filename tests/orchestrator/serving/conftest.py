"""A served run with named classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from orchestrator.serving.app import make_app
from orchestrator.serving.settings import ServingConfig
from tests.orchestrator.builders import named_classes, run_config, trained, write
from tests.orchestrator.serving.running import running


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a merged run of three worlds whose classes have names."""
    folder = tmp_path_factory.mktemp("served")
    names = write(folder / "names.parquet", named_classes())
    return trained(run_config(folder, f"data.class_names={names}"))


@pytest.fixture(scope="session")
def client(run: Path) -> Iterator[TestClient]:
    """Return a client of the run's service."""
    config = ServingConfig(ensemble=str(run), cpus=1, most_k=50, most_queries=8)
    with TestClient(make_app(config)) as found:
        yield found


@pytest.fixture(scope="session")
def address(run: Path) -> Iterator[str]:
    """Return the URL of the run's service, where it answers over HTTP."""
    with running(ServingConfig(ensemble=str(run), cpus=1, most_k=50, most_queries=8)) as found:
        yield found


@pytest.fixture(scope="session")
def nameless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a merged run of two worlds whose classes have no names."""
    return trained(run_config(tmp_path_factory.mktemp("nameless"), "seed=5", "worlds=2"))
