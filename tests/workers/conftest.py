"""An S3 server for tests, one for all of them; each uses a folder of its own in the bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.object_store import ENVIRONMENT, Proxy, s3_server


@pytest.fixture(scope="session")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder: Path = tmp_path_factory.mktemp("s3")
    with s3_server(folder) as port:
        proxy = Proxy(port, folder)
        yield proxy
        proxy.close()


@pytest.fixture
def s3(_served: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Return the way to the server, without faults, with credentials in the environment."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": _served.url}.items():
        monkeypatch.setenv(name, value)
    yield _served
    _served.reset()
