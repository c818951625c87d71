"""`status --watch`: a run looked at again and again, from its storage alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import display, watching
from orchestrator.api import RunStatus
from orchestrator.cli import main
from orchestrator.lease import TERM, Lease
from orchestrator.run import Run
from orchestrator.state import WorldState
from tests.orchestrator.builders import attempt, begun
from tests.orchestrator.command import manyworlds
from workers.storage import RunPaths

PROGRESS = {"step": 10, "steps": 40, "epoch": 0, "loss": 1.5, "rows_per_second": 100.0}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run of three worlds, of which one runs."""
    made = begun(tmp_path)
    made.save(WorldState(index=0, status="running", attempts=(attempt("01-aa", None),)))
    made.storage.write_json(made.paths.progress(0, "01-aa"), PROGRESS)
    return made


def finish(run: Run, world: int) -> None:
    ended = (attempt("01-aa", "done"),)
    run.save(WorldState(index=world, status="done", attempts=ended, winner="01-aa"))


class Sleeping:
    """A clock that goes on while somebody sleeps; at each sleep something else happens."""

    def __init__(self, *happens: Any) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._happens = list(happens)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self._happens:
            self._happens.pop(0)()


def looked(run: Run, time: Sleeping, **options: Any) -> list[RunStatus]:
    return list(watching.looks(run.uri, clock=time.clock, sleep=time.sleep, **options))


def test_it_ends_when_all_worlds_are_done(run: Run) -> None:
    with Lease(run.storage):
        time = Sleeping(*(lambda world=world: finish(run, world) for world in range(3)))
        found = looked(run, time)
    done = [sum(view.state == "done" for view in look.views) for look in found]
    assert done == [0, 1, 2, 3]
    assert time.slept == [watching.EVERY] * 3


def test_it_ends_when_the_driver_has_left(run: Run) -> None:
    with Lease(run.storage):
        time = Sleeping(lambda: None, lambda: run.storage.delete(RunPaths.lease))
        found = looked(run, time, every=7.0)
    assert [look.views[0].state for look in found] == ["running", "running", "pending"]
    assert time.slept == [7.0, 7.0]


def test_it_ends_at_once_where_nobody_drives(run: Run) -> None:
    time = Sleeping()
    assert len(looked(run, time)) == 1
    assert time.slept == []


def beat(run: Run, number: int) -> None:
    """Let the driver be one of another machine that gave its sign of life so often."""
    values = run.storage.read_json(RunPaths.lease)
    run.storage.write_json(RunPaths.lease, {**values, "boot": "elsewhere", "beat": number})


def test_it_ends_when_a_driver_elsewhere_falls_silent(run: Run) -> None:
    with Lease(run.storage):
        beat(run, 1)
        time = Sleeping(lambda: beat(run, 2), lambda: beat(run, 3))
        looked(run, time, every=TERM - 1)
    # A sign of life before each of the first two looks, then one look too many.
    assert len(time.slept) == 4


@contextmanager
def watched(time: Sleeping) -> Iterator[None]:
    """Let `status --watch` of this process go by another time."""
    with pytest.MonkeyPatch.context() as patch:
        real = watching.looks
        patch.setattr(
            watching, "looks", lambda *words, **options: real(
                *words, clock=time.clock, sleep=time.sleep, **options
            ),
        )  # fmt: skip
        yield


def test_status_watch_tells_every_change_and_what_is_next(run: Run) -> None:
    def step() -> None:
        values = {**PROGRESS, "step": 30, "trouble": "the disk is full"}
        run.storage.write_json(run.paths.progress(0, "01-aa"), values)

    ends = [lambda world=world: finish(run, world) for world in range(3)]
    with Lease(run.storage), watched(time := Sleeping(step, *ends)):
        ended = manyworlds("status", run.uri, "--watch", "--every", "0.5")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith(f"{run.uri}: driven by ")
    assert [text.split()[:3] for text in lines[1:6]] == [
        ["world", "0", "running"],
        ["world", "0", "running"],
        ["world", "0", "done"],
        ["world", "1", "done"],
        ["world", "2", "done"],
    ]
    assert lines[2].endswith("the disk is full")
    assert time.slept == [0.5] * 4
    assert ended.next_commands == [["logs", run.uri], ["stop", run.uri]]


def test_status_watch_of_a_run_that_is_not_done_ends_with_1(run: Run) -> None:
    with watched(Sleeping()):
        ended = manyworlds("status", run.uri, "--watch")
    assert ended.code == 1
    assert ended.out.splitlines()[0] == f"{run.uri}: nobody drives it"
    assert ["resume", run.uri] in ended.next_commands


def test_ctrl_c_ends_a_watch_quietly(run: Run) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    with Lease(run.storage), watched(Sleeping(press)):
        ended = manyworlds("status", run.uri, "--watch")
    assert (ended.code, ended.err) == (0, "")
    assert "next:" not in ended.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--watch", "--json"], "expected --watch alone"),
        (["--watch", "--attempts"], "expected --watch alone"),
        (["--every", "3"], "expected --every with --watch"),
    ],
)
def test_options_that_do_not_go_together_are_told(run: Run, words: list[str], message: str) -> None:
    ended = manyworlds("status", run.uri, *words)
    assert ended.code == 2
    assert message in ended.err


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "inf", "nan"])
def test_what_is_no_time_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["status", "r", "--watch", f"--every={seconds}"])
    assert "expected a positive number, found" in capsys.readouterr().err


def test_plain_lines_of_storage_are_those_of_a_driver(run: Run) -> None:
    with Lease(run.storage):
        (found, *_) = watching.looks(run.uri, sleep=lambda seconds: finish_all(run))
    written: list[str] = []
    display.PlainLines(written.append).show([replace(found.views[0], cause="")])
    assert written == ["world   0 running   10/40  100 rows/s  loss 1.500  6 s left"]


def finish_all(run: Run) -> None:
    for world in range(3):
        finish(run, world)
