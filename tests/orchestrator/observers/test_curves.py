"""Curves for TensorBoard and MLflow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from orchestrator import api
from orchestrator.config import RunConfig
from orchestrator.observers import tensorboard
from orchestrator.observers.mlflow import MLflow
from orchestrator.observers.tensorboard import TensorBoard, folder_for
from orchestrator.views import WorldView
from tests.orchestrator.builders import run_config
from tests.orchestrator.observers.recording import RUN, RUNNING, summary
from workers.errors import ConfigError


def curve(folder: Path, world: int, name: str = "loss") -> dict[int, float]:
    """Return the points of a world's curve, by step."""
    read: Any = EventAccumulator(str(folder / f"world-{world:03d}"))
    read.Reload()
    return {event.step: event.value for event in read.Scalars(name)}


def observe(observer: TensorBoard | MLflow, *looks: Sequence[WorldView]) -> None:
    observer.begin(RUN)
    for views in looks:
        observer.saw(views)
    observer.end(summary())


def steps(*pairs: tuple[int, float], attempt: int = 1) -> list[list[WorldView]]:
    view = replace(RUNNING, attempts=attempt)
    return [[replace(view, step=step, loss=loss)] for step, loss in pairs]


def test_a_run_leaves_curves_of_all_worlds_in_its_folder(tmp_path: Path) -> None:
    left = api.train(run_config(tmp_path))
    for view in api.status(left.run).views:
        found = curve(tmp_path / "run" / "tensorboard", view.world)
        assert view.steps is not None
        assert found[int(view.steps)] == pytest.approx(view.loss)
    assert sorted(path.name for path in (tmp_path / "run" / "tensorboard").iterdir()) == [
        "world-000", "world-001", "world-002",
    ]  # fmt: skip


def test_another_folder_can_be_given(tmp_path: Path) -> None:
    api.train(run_config(tmp_path, f"watch.tensorboard={tmp_path / 'curves'}", "worlds=1"))
    assert curve(tmp_path / "curves", 0)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_folder_of_a_resumed_run_is_the_one_of_whoever_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = api.train(run_config(tmp_path, "worlds=1", "watch.tensorboard=null")).run
    monkeypatch.chdir(tmp_path)
    api.resume(run, overrides=["watch.tensorboard=curves"])
    assert api.status(run).config.watch.tensorboard == str(tmp_path / "curves")


def test_no_curves_are_written_where_none_are_wanted(tmp_path: Path) -> None:
    api.train(run_config(tmp_path, "watch.tensorboard=null", "worlds=1"))
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_step_that_was_told_before_is_no_second_point(tmp_path: Path) -> None:
    observe(TensorBoard(str(tmp_path)), *steps((10, 3.0), (10, 3.0), (20, 2.0)))
    assert curve(tmp_path, 0) == {10: 3.0, 20: 2.0}
    assert curve(tmp_path, 0, "rows_per_second") == {10: 10.0, 20: 10.0}


def test_what_is_trained_again_takes_the_place_of_what_was(tmp_path: Path) -> None:
    first = steps((10, 3.0), (20, 2.0), (30, 1.0))
    stale, second = steps((30, 1.0), attempt=2), steps((15, 2.5), (20, 1.5), attempt=2)
    observe(TensorBoard(str(tmp_path)), *first, *stale, *second)
    assert curve(tmp_path, 0) == {10: 3.0, 15: 2.5, 20: 1.5}


def test_a_world_that_told_nothing_has_no_folder(tmp_path: Path) -> None:
    observe(TensorBoard(str(tmp_path)), [WorldView(world=0, state="done")])
    assert list(tmp_path.iterdir()) == []


def asked(run: str, folder: str | None) -> RunConfig:
    return replace(RUN, run=run, watch=replace(RUN.watch, tensorboard=folder))


def test_a_run_in_an_object_store_needs_a_folder() -> None:
    told: list[str] = []
    assert folder_for(asked("mock:///bucket/run", "auto"), told.append) is None
    assert "watch.tensorboard=FOLDER names a local folder" in told[0]
    assert folder_for(asked("mock:///bucket/run", "/curves"), told.append) == "/curves"
    assert folder_for(asked("mock:///bucket/run", None), told.append) is None
    assert len(told) == 1


def test_where_tensorboard_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    told: list[str] = []
    assert folder_for(asked("runs/a", "auto"), told.append) is None
    assert told == []
    with pytest.raises(ConfigError, match=r"watch\.tensorboard: .* pip install tensorboard"):
        folder_for(asked("runs/a", "/curves"), told.append)


@pytest.mark.parametrize("folder", ["", "s3://bucket/curves"])
def test_what_is_no_local_folder_is_refused(folder: str) -> None:
    (problem,) = asked("runs/a", folder).watch.problems()
    assert problem.startswith("watch.tensorboard: expected auto, null or a local folder, found")


class FakeMLflow(ModuleType):
    """Writes down what MLflow would be told."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = ModuleSpec("mlflow", None)
        self.told: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **options: self.told.append((name, words or options))

    def log_metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.told.append(("log_metrics", (values, step)))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


def test_mlflow_gets_settings_and_curves(mlflow: FakeMLflow) -> None:
    second = replace(RUNNING, world=1, step=None, loss=None, rows_per_second=None)
    observe(MLflow(), [RUNNING, second], [RUNNING, replace(second, step=5, loss=1.0)])
    calls = [name for name, _ in mlflow.told]
    assert calls == ["start_run", "log_params", *["log_metrics"] * 3, "end_run"]
    assert mlflow.told[0][1] == {"run_name": "first", "tags": {"manyworlds.run": "runs/first"}}
    (settings,) = mlflow.told[1][1]
    assert settings["worlds"] == "2"
    assert settings["partition.buckets"] == "4096"
    assert [told for name, told in mlflow.told if name == "log_metrics"] == [
        ({"loss/world-000": 2.5, "rows_per_second/world-000": 10.0}, 50),
        ({"loss/world-001": 1.0}, 5),
        ({"worlds_done": 2}, None),
    ]
    assert mlflow.told[-1][1] == ("FINISHED",)


def test_mlflow_hears_of_a_run_that_failed(mlflow: FakeMLflow) -> None:
    observer = MLflow()
    observer.begin(RUN)
    observer.end(summary(done=[0], failed={1: "no"}))
    assert mlflow.told[-1] == ("end_run", ("FAILED",))


def test_mlflow_can_be_named_in_the_settings(tmp_path: Path, mlflow: FakeMLflow) -> None:
    name = "orchestrator.observers.mlflow:MLflow"
    api.train(run_config(tmp_path, f"watch.observers=['{name}']"))
    assert mlflow.told[-1] == ("end_run", ("FINISHED",))


def test_observers_need_neither_mlflow_nor_tensorboard() -> None:
    code = """
import sys
import orchestrator.api, orchestrator.observers.mlflow
print({"mlflow", "tensorboard"} & set(sys.modules))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.stdout == "set()\n", ended.stderr
