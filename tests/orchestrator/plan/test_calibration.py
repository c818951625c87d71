"""The pace of worlds on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import load, override
from orchestrator.plan import calibrate, room_here
from orchestrator.plan.calibration import _Stopwatch, _Times
from tests.orchestrator.builders import run_config
from workers.errors import DataError, StorageError


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


class Checkpoint:
    """One that is written while so many steps are made, and takes seconds from them."""

    def __init__(self, clock: Clock, *, steps: int, lost: float) -> None:
        self._clock = clock
        self._left = steps
        self._lost = lost

    def begin(self) -> None:
        """Take time at once, as a copy does."""
        self._clock.now += self._lost

    def busy(self) -> bool:
        """Ask after a step."""
        self._left -= 1
        return self._left > 0

    def wait(self) -> None:
        """Come to the end without a step."""
        self._clock.now += self._left


def watched(clock: Clock, checkpoint: Checkpoint, *, most: int = 50) -> tuple[_Times, int]:
    """Return what a stopwatch notes of a world that has so many steps."""
    watch = _Stopwatch(2.5, Door(), begin=checkpoint.begin, busy=checkpoint.busy, clock=clock)
    asked = 0
    while asked < most and not watch():
        clock.tick()
        asked += 1
    return watch.result(checkpoint.wait), asked


def test_the_first_steps_are_left_out_of_the_pace() -> None:
    clock = Clock(7.0, 5.0, 5.0, 5.0)
    times, asked = watched(clock, Checkpoint(clock, steps=4, lost=0.5))
    assert times.first == 7.0
    assert times.step == pytest.approx(1.0)
    assert asked == 4 + 3 + 4


def test_what_a_checkpoint_takes_from_the_steps_is_counted() -> None:
    clock = Clock()
    times, _ = watched(clock, Checkpoint(clock, steps=4, lost=0.5))
    assert times.write == pytest.approx(4.5)
    assert times.lost == pytest.approx(0.5)


def test_a_world_that_ends_early_has_its_checkpoint_timed_too() -> None:
    clock = Clock()
    times, _ = watched(clock, Checkpoint(clock, steps=4, lost=0.5), most=3)
    assert times.step == pytest.approx(1.0)
    assert times.write == pytest.approx(4.5)
    assert times.lost == pytest.approx(4.5)


def test_worlds_are_trained_and_nothing_is_kept(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    pace = calibrate(config, at_once=2, threads=1, seconds=0.0)
    assert (pace.at_once, pace.threads) == (2, 1)
    assert 0 < pace.step_seconds < pace.start_seconds
    # Of two checkpoints: either may take longer.
    assert pace.lost_seconds >= 0
    assert pace.write_seconds > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_world_that_cannot_train_says_why(tmp_path: Path) -> None:
    config = override(run_config(tmp_path), ["data.classes=20"])
    with pytest.raises(DataError, match="labels"):
        calibrate(config, at_once=2, threads=1, seconds=1.0)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_a_run_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    config = override(run_config(tmp_path), ["run=/proc/runs/first"])
    with pytest.raises(StorageError, match=r"/proc/\.manyworlds-plan"):
        calibrate(config, at_once=1, threads=1, seconds=0.0)


def test_worlds_share_this_machine_as_in_a_run() -> None:
    settings = ["run=a", "data.train=b", "data.classes=50000", "data.text=[q]", "worlds=9"]
    settings += ["runtime.device=cpu", "cluster.gpus_per_world=0"]
    assert room_here(load(overrides=[*settings, "cluster.address=none"])) == (1, 0)
    one, threads = room_here(load(overrides=[*settings, "cluster.max_parallel=1"]))
    assert one == 1
    assert threads >= 1
    assert room_here(load(overrides=[*settings, "worlds=1"]))[0] == 1
