"""What there is to see of a world: told by a driver, or read from storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.driver import WorldStatus
from orchestrator.lease import Lease
from orchestrator.run import Run
from orchestrator.state import WorldState
from orchestrator.views import WorldView, of_driver
from tests.orchestrator import builders
from tests.orchestrator.builders import attempt, begun, run_config, trained
from workers.config import TrainingConfig
from workers.errors import StorageError

PROGRESS = {**builders.PROGRESS, "device": "cuda NVIDIA H200 bf16"}


def told(state: str, **values: Any) -> WorldView:
    """Return the view of a world whose driver knows it so."""
    known = {"cause": None, "message": "", "progress": PROGRESS, "node": "gpu-7", **values}
    status = WorldStatus(world=3, status=state, attempts=1, **known)
    (view,) = of_driver([status], TrainingConfig(epochs=3, batch_size=10))
    return view


def stored(folder: Path, progress: dict[str, Any]) -> WorldView:
    """Return the view of a running world that wrote this progress."""
    run = begun(folder)
    running = attempt("01-dd", None, node="gpu-7")
    run.save(WorldState(index=0, status="running", attempts=(running,)))
    run.storage.write_json(run.paths.progress(0, "01-dd"), progress)
    with Lease(run.storage):
        return api.status(run.uri).views[0]


def test_a_driver_and_a_reader_of_storage_see_the_same(tmp_path: Path) -> None:
    for view, epochs in ((told("running"), 3), (stored(tmp_path, PROGRESS), 2)):
        assert (view.device, view.node) == ("H200", "gpu-7")
        assert (view.epoch, view.epochs, view.step, view.steps) == (2, epochs, 30, 40)


def test_progress_of_a_version_that_told_less_is_read(tmp_path: Path) -> None:
    view = stored(tmp_path, {"step": 30, "steps": 40, "loss": 1.5})
    assert (view.state, view.device, view.epoch, view.node) == ("running", "", None, "gpu-7")


@pytest.mark.parametrize("epoch", ["first", True, 10**400])
def test_an_epoch_that_is_none_is_told(tmp_path: Path, epoch: Any) -> None:
    with pytest.raises(StorageError, match=r"progress\.json: expected a number as epoch, found"):
        stored(tmp_path, {**PROGRESS, "epoch": epoch})


@pytest.mark.parametrize(
    ("described", "short"),
    [
        ("cpu AVX512 fp32", "cpu"),
        ("cuda NVIDIA H200 bf16", "H200"),
        ("cuda NVIDIA H100 80GB HBM3 bf16", "H100"),
        ("cuda NVIDIA A100-SXM4-80GB bf16 plain Torch", "A100"),
        ("cuda Tesla T4 fp32", "T4"),
        ("cuda NVIDIA GeForce RTX 4090 bf16", "RTX 4090"),
        ("cuda NVIDIA fp32", "cuda"),
        (None, ""),
    ],
)
def test_devices_have_short_names(described: str | None, short: str) -> None:
    assert told("running", progress={**PROGRESS, "device": described}).device == short


@pytest.mark.parametrize(
    ("state", "node"), [("done", "gpu-7"), ("failed", "gpu-7"), ("waiting", ""), ("pending", "")]
)
def test_a_world_that_is_nowhere_has_no_node(state: str, node: str) -> None:
    assert told(state).node == node


def test_how_attempts_ended_is_told_beside_what_is_lacking() -> None:
    view = told("waiting", cause="hung", message="no sign", ends=2, lacking="8 GPUs")
    assert (view.cause, view.ended, view.ends) == ("8 GPUs", "hung", 2)


def test_a_trained_world_tells_where_it_trained(tmp_path: Path) -> None:
    run = trained(run_config(tmp_path, "worlds=1"))
    (view,) = api.status(str(run)).views
    assert (view.device, view.epoch, view.epochs) == ("cpu", 2, 2)
    assert view.node == Run.open(str(run)).state(0).attempts[0].node != ""


def runs_again(folder: Path, *, node: str | None, told: dict[str, Any] | None = None) -> WorldView:
    """Return the view of a world whose second attempt was begun, and told this."""
    run = begun(folder)
    first = attempt("01-dd", "preemption", node="gpu-7", message="taken")
    both = (first, attempt("02-ee", None, node=node))
    run.save(WorldState(index=0, status="running", attempts=both))
    run.storage.write_json(run.paths.progress(0, "01-dd"), {**PROGRESS, "trouble": "full"})
    if told:
        run.storage.write_json(run.paths.progress(0, "02-ee"), told)
    with Lease(run.storage):
        return api.status(run.uri).views[0]


def test_an_attempt_without_a_place_waits_for_one(tmp_path: Path) -> None:
    view = runs_again(tmp_path, node=None)
    assert (view.state, view.node, view.attempts) == ("waiting", "", 2)
    assert api.status(str(tmp_path / "run")).views[0].state == "pending"


def test_what_told_something_has_a_place_even_if_none_was_kept(tmp_path: Path) -> None:
    assert runs_again(tmp_path, node=None, told=PROGRESS).state == "running"


def test_a_new_attempt_is_as_far_as_the_one_before_until_it_tells(tmp_path: Path) -> None:
    view = runs_again(tmp_path, node="gpu-8")
    assert (view.state, view.step, view.steps, view.epoch, view.loss) == ("running", 30, 40, 2, 1.5)
    # Where it runs and how fast is its own matter.
    assert (view.rows_per_second, view.seconds_left, view.device) == (None, None, "")
    assert (view.trouble, view.node) == ("", "gpu-8")
