"""The pace of worlds on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import load, override
from orchestrator.plan import calibrate, room_here
from orchestrator.plan.calibration import _Stopwatch
from tests.orchestrator.builders import run_config
from workers.errors import DataError


class Clock:
    """Seconds that pass when somebody asks for them."""

    def __init__(self, *steps: float) -> None:
        self.now = 0.0
        self._steps = list(steps)

    def __call__(self) -> float:
        return self.now

    def tick(self) -> None:
        """Let the next step pass."""
        self.now += self._steps.pop(0) if self._steps else 1.0


class Door:
    """Everybody is there already."""

    def wait(self, seconds: float) -> None:
        """Wait for nobody."""


def test_the_first_steps_are_left_out_of_the_pace() -> None:
    clock = Clock(7.0, 5.0, 5.0, 5.0)
    watch = _Stopwatch(2.5, Door(), clock)
    asked = 0
    while not watch():
        clock.tick()
        asked += 1
        assert asked < 50
    first, step = watch.result()
    assert first == 7.0
    assert step == pytest.approx(1.0)
    assert asked == 4 + 3


def test_worlds_are_trained_and_nothing_is_kept(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    pace = calibrate(config, at_once=2, threads=1, seconds=0.0)
    assert (pace.at_once, pace.threads) == (2, 1)
    assert 0 < pace.step_seconds < pace.start_seconds
    assert sorted(tmp_path.rglob("*")) == before


def test_a_world_that_cannot_train_says_why(tmp_path: Path) -> None:
    config = override(run_config(tmp_path), ["data.classes=20"])
    with pytest.raises(DataError, match="labels"):
        calibrate(config, at_once=2, threads=1, seconds=1.0)


def test_worlds_share_this_machine_as_in_a_run() -> None:
    settings = ["run=a", "data.train=b", "data.classes=50000", "data.text=[q]", "worlds=9"]
    settings += ["runtime.device=cpu", "cluster.gpus_per_world=0"]
    assert room_here(load(overrides=[*settings, "cluster.address=none"])) == (1, 0)
    one, threads = room_here(load(overrides=[*settings, "cluster.max_parallel=1"]))
    assert one == 1
    assert threads >= 1
    assert room_here(load(overrides=[*settings, "worlds=1"]))[0] == 1
