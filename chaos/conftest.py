"""One cluster, one S3 server and one undisturbed run for all cases, and the table of them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from tests.ray_environment import RAY_ENVIRONMENT

# Before Ray is imported.
os.environ.update(RAY_ENVIRONMENT)

import pytest
import ray

from chaos import training
from chaos.report import Row, write
from chaos.training import Source, prepared
from orchestrator.executors.cluster import connect
from tests.cluster.machines import Machines
from tests.workers.object_store import ENVIRONMENT, Proxy, s3_server

_CASES = pytest.StashKey[dict[str, Row]]()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Return the way to an S3 server, whose address and credentials every process has."""
    folder: Path = tmp_path_factory.mktemp("s3")
    with s3_server(folder) as port, pytest.MonkeyPatch.context() as patch:
        proxy = Proxy(port, folder)
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url}.items():
            patch.setenv(name, value)
        yield proxy
        proxy.close()


@pytest.fixture(scope="session")
def cluster(store: Proxy) -> Iterator[Machines]:
    """Return the cluster, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in training.ENVIRONMENT.items():
            patch.setenv(name, value)
        found = Machines()
        assert connect(found.cluster.address)
        yield found
        ray.shutdown()
        found.close()


@pytest.fixture
def machines(cluster: Machines) -> Machines:
    """Return the cluster with three machines that stay."""
    cluster.clear()
    cluster.complete()
    return cluster


@pytest.fixture(scope="session")
def source(cluster: Machines, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return the data, and what undisturbed worlds come to."""
    return prepared(tmp_path_factory.mktemp("source"), cluster.cluster.address)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(fault, wanted): the line of the table")
    config.stash[_CASES] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        marker = item.get_closest_marker("case")
        assert marker, f"{item.nodeid}: expected a mark `case`, found none"
        config.stash[_CASES][item.nodeid] = Row(case=item.name, **marker.kwargs)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    row = item.config.stash[_CASES].get(item.nodeid)
    if row is None:
        return report
    row.seconds = round(row.seconds + (report.duration if report.when == "call" else 0.0), 1)
    row.found = dict(report.user_properties)
    if report.when == "call" or report.outcome != "passed":
        row.outcome = _outcome(report)
    return report


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}"
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2].replace("Skipped", "skipped")
    return report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    rows: list[Row] = list(session.config.stash[_CASES].values())
    whole = [Path(word).name for word in session.config.args] == [Path(__file__).parent.name]
    options: Any = session.config.option
    chosen = options.keyword or options.markexpr or options.collectonly
    if whole and not chosen and all(row.outcome != "not run" for row in rows):
        write(rows)
