"""Observers beside a run: told in order, and no harm to it whatever they do."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.config import RunConfig
from orchestrator.observers import Observer
from orchestrator.observers.beside import BEHIND, Watchers
from orchestrator.views import WorldView
from tests.orchestrator.builders import run_config
from tests.orchestrator.command import manyworlds
from tests.orchestrator.observers.recording import RUN, RUNNING, Recorder, summary
from workers.errors import ConfigError, DataError


class Held(Recorder):
    """Takes in nothing before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.held = threading.Event()

    def begin(self, run: RunConfig) -> None:
        self.held.set()
        self.go.wait()
        super().begin(run)


def watchers(*observers: Observer, grace: float = 20.0) -> tuple[Watchers, list[str]]:
    told: list[str] = []
    return Watchers(observers, warn=told.append, grace=grace), told


def watch(made: Watchers, looks: int = 2) -> None:
    made.begin(RUN)
    for _ in range(looks):
        made.saw([RUNNING])
    made.end(summary())


def test_observers_are_told_all_in_order() -> None:
    first, second = Recorder(), Recorder()
    made, told = watchers(first, second)
    watch(made)
    assert first.calls == second.calls == ["begin", "saw", "saw", "end"]
    assert first.views == [[RUNNING]] * 2
    assert first.summary == summary()
    assert told == []


@pytest.mark.parametrize(("call", "calls"), [("begin", 1), ("saw", 2), ("end", 4)])
def test_one_that_raises_is_dropped_with_one_message(call: str, calls: int) -> None:
    bad, good = Recorder(raises=call), Recorder()
    made, told = watchers(bad, good)
    watch(made)
    assert bad.calls == ["begin", "saw", "saw", "end"][:calls]
    assert good.calls == ["begin", "saw", "saw", "end"]
    (message,) = told
    assert message.startswith(
        f"observer Recorder is told no more, it failed: ValueError: no {call}"
    )


def test_one_that_hangs_holds_nobody_up() -> None:
    held, good = Held(), Recorder()
    made, told = watchers(held, good, grace=0.0)
    watch(made)
    good.ended.wait()
    assert held.calls == []
    assert good.calls == ["begin", "saw", "saw", "end"]
    assert told[0] == "observer Held takes too long to end, and is left behind"
    held.go.set()


def test_one_that_is_far_behind_misses_the_oldest() -> None:
    held = Held()
    made, told = watchers(held)
    made.begin(RUN)
    held.held.wait()
    for step in range(BEHIND + 5):
        made.saw([WorldView(world=0, state="running", step=step)])
    held.go.set()
    made.end(summary())
    steps = [view.step for (view,) in held.views]
    # Two more made room for the end.
    assert steps == list(range(7, BEHIND + 5))
    assert held.summary == summary()
    assert told == []


def test_catching_up_waits_for_what_was_told() -> None:
    observer = Recorder()
    made, _ = watchers(observer)
    made.begin(RUN)
    made.saw([RUNNING])
    made.catch_up()
    assert observer.calls == ["begin", "saw"]
    made.end(summary())


def test_a_run_that_never_began_is_not_told() -> None:
    observer = Recorder()
    made, _ = watchers(observer)
    made.catch_up()
    made.end(summary())
    assert observer.calls == []


def states(observer: Recorder) -> list[set[str]]:
    return [{view.state for view in views} for views in observer.views]


def test_a_run_tells_its_observers(tmp_path: Path) -> None:
    observer = Recorder()
    config = run_config(tmp_path)
    left = api.train(config, observers=[observer])
    assert observer.calls[0] == "begin"
    assert observer.calls[-1] == "end"
    assert states(observer)[0] == {"pending"}
    assert states(observer)[-1] == {"done"}
    assert observer.summary == left
    assert left.ensemble is not None


def test_an_observer_that_raises_harms_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = api.train(run_config(tmp_path), observers=[Recorder(raises="saw")])
    assert left.done == (0, 1, 2)
    err = capsys.readouterr().err
    assert err.count("observer Recorder is told no more, it failed: ValueError: no saw today") == 1


def test_a_driver_that_breaks_off_tells_so(tmp_path: Path) -> None:
    def broken(views: Sequence[WorldView]) -> None:
        if any(view.state == "done" for view in views):
            raise OSError("no terminal any more")

    observer = Recorder()
    with pytest.raises(OSError, match="no terminal"):
        api.train(run_config(tmp_path), listener=broken, observers=[observer])
    assert observer.summary is not None
    assert observer.summary.error is not None
    assert "no terminal any more" in observer.summary.error
    assert len(observer.summary.pending) == 3


def test_a_run_that_cannot_begin_tells_nobody(tmp_path: Path) -> None:
    observer = Recorder()
    with pytest.raises(DataError):
        api.train(run_config(tmp_path, "data.train=nowhere.parquet"), observers=[observer])
    assert observer.calls == []


class Counting:
    """An observer of a user, named in the settings."""

    def begin(self, run: RunConfig) -> None:
        """Tell where the run is."""
        _seen.append(run.run)

    def saw(self, views: Sequence[WorldView]) -> None:
        """Do nothing."""

    def end(self, summary: object) -> None:
        """Do nothing."""


_seen: list[str] = []
NAME = f"{__name__}:Counting"


def test_observers_can_be_named_in_the_settings(tmp_path: Path) -> None:
    _seen.clear()
    config = run_config(tmp_path, f"watch.observers=['{NAME}']")
    api.train(config)
    assert _seen == [config.run]
    # They are kept with the run.
    assert manyworlds("resume", config.run).code == 0
    assert _seen == [config.run] * 2


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("no_such_module:Class", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{__name__}:Missing", "AttributeError: "),
        (f"{__name__}:Held.go", "expected module:Class, found"),
        (f"{__name__}:watchers", "found no begin; see orchestrator.observers.Observer"),
        ("Class", "expected module:Class, found Class"),
    ],
)
def test_observers_that_are_none_are_told_before_a_run_is_made(
    tmp_path: Path, name: str, found: str
) -> None:
    with pytest.raises(ConfigError, match=r"watch\.observers: expected") as caught:
        api.train(run_config(tmp_path, f"watch.observers=['{name}']"))
    assert found in str(caught.value)
    assert not (tmp_path / "run" / "identity.yaml").exists()
