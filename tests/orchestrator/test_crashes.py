"""A driver that dies after any single write: what was committed stays, the rest is resumed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from orchestrator import Ensemble, api
from orchestrator.driver import Summary
from orchestrator.lease import Lease
from orchestrator.run import Run
from tests.orchestrator.builders import copied, final, run_config, trained
from tests.orchestrator.crashes import crashed_after_each_write
from tests.orchestrator.fakes import FakeExecutor, Script, drive, make_run
from workers.storage import RunPaths, Storage

SCRIPT: Script = {0: [("error", 3), ("preemption", 0)], 1: [("stopped", 2)]}


def test_a_driver_that_dies_after_any_write_loses_nothing() -> None:
    runs: list[Run] = []

    def prepare() -> Callable[[], Summary]:
        runs.append(make_run())
        return partial(drive, FakeExecutor(runs[-1], SCRIPT))

    for _ in crashed_after_each_write(prepare):
        run = runs[-1]
        before = {state.index: state for state in run.states()}
        committed = {world: run.finished(world) for world in range(3)}
        again = FakeExecutor(run)
        assert drive(again).complete
        for world, state in before.items():
            assert state.status != "done" or run.state(world) == state
        trained_again = [world for world, _ in again.started]
        assert trained_again == [world for world in range(3) if not committed[world]]
        for world, found in committed.items():
            assert found is None or run.state(world).winner == found[0]
    assert len(runs) > 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of three worlds, trained and merged."""
    return trained(run_config(tmp_path_factory.mktemp("source")))


def test_a_merge_that_dies_after_any_write_spoils_no_ensemble(source: Path, tmp_path: Path) -> None:
    run = copied(source, tmp_path / "run")
    commit = final(run, 1) / "COMMIT"
    data = commit.read_bytes()
    commit.unlink()
    api.merge(str(run), min_worlds=2)
    commit.write_bytes(data)
    copies: list[Path] = []

    def prepare() -> Callable[[], str]:
        copies.append(copied(run, tmp_path / str(len(copies)), merged=True))
        return partial(api.merge, str(copies[-1]))

    for _ in crashed_after_each_write(prepare):
        copy = str(copies[-1])
        # What was served before is served still.
        assert Ensemble.load(copy, verify="full", threads=1).worlds == 2
        assert Ensemble.load(api.merge(copy), verify="full", threads=1).worlds == 3
        assert Ensemble.load(copy, verify="full", threads=1).worlds == 3
    assert len(copies) > 4


def test_a_lease_whose_owner_dies_after_any_write_is_free(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))

    def hold() -> None:
        with Lease(storage) as lease:
            lease.renew()

    for _ in crashed_after_each_write(lambda: hold):
        if storage.exists(RunPaths.lease):
            owner = storage.read_json(RunPaths.lease)
            # Of a process that is no more.
            storage.write_json(RunPaths.lease, {**owner, "started": "1"})
        with Lease(storage) as lease:
            lease.renew()
        assert not storage.exists(RunPaths.lease)
