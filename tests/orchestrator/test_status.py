"""What `status` and `logs` tell of a run from its storage alone."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api, display, stopping
from orchestrator.cli import main
from orchestrator.cli.output import show
from orchestrator.lease import Lease, owner_of
from orchestrator.run import Run
from orchestrator.state import WorldState
from orchestrator.views import WorldView
from tests.orchestrator.builders import PROGRESS, attempt, begun
from tests.orchestrator.command import manyworlds
from workers.errors import RunError, StorageError
from workers.storage import RunPaths


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run with a world done, one failed, and one running."""
    made = begun(tmp_path)
    lost = attempt("01-aa", "preemption", message="its machine was taken", node="spot-1")
    done = (lost, attempt("02-bb", "done", node="spot-2", steps=40))
    made.save(WorldState(index=0, status="done", attempts=done, winner="02-bb"))
    bad = attempt("01-cc", "out_of_memory", message="a smaller batch_size needs less")
    made.save(WorldState(index=1, status="failed", attempts=(bad,)))
    made.save(WorldState(index=2, status="running", attempts=(attempt("01-dd", None),)))
    made.storage.write_json(made.paths.progress(2, "01-dd"), PROGRESS)
    return made


def change_lease(run: Run, **values: Any) -> None:
    run.storage.write_json(RunPaths.lease, {**run.storage.read_json(RunPaths.lease), **values})


def driving(run: Run) -> str:
    return manyworlds("status", run.uri).out.partition("\n\n")[0]


def test_status_names_the_driver(run: Run) -> None:
    assert driving(run) == f"{run.uri}: nobody drives it"
    with Lease(run.storage):
        owner = owner_of(run.storage)
        assert owner is not None
        assert driving(run) == f"{run.uri}: driven by {owner}"
        ended = manyworlds("status", run.uri)
        assert ended.next_commands == [["logs", run.uri], ["stop", run.uri]]
        stopping.ask(run.storage, owner.token)
        assert "\nit was asked to stop by somebody on " in driving(run)
        assert manyworlds("status", run.uri).next_commands == [["logs", run.uri]]


def test_status_says_where_the_driver_seems_to_be_dead(run: Run) -> None:
    with Lease(run.storage):
        change_lease(run, pid=2**22 + 1)
        assert driving(run).startswith(f"{run.uri}: its driver seems to be dead: process 4194305")
        assert manyworlds("status", run.uri).next_commands == [
            ["logs", run.uri, "--world", "1"],
            ["resume", run.uri],
            ["merge", run.uri, "--min-worlds", "1"],
        ]
        change_lease(run, boot="another host")
        assert driving(run).startswith(f"{run.uri}: driven by process 4194305")


def test_a_world_runs_only_under_a_driver(run: Run) -> None:
    lost = api.status(run.uri).views[2]
    assert (lost.state, lost.cause) == ("pending", "its driver ended before it")
    with Lease(run.storage):
        assert api.status(run.uri).views[2].state == "running"
        change_lease(run, started="another process of that number")
        assert api.status(run.uri).views[2].state == "pending"


def test_status_shows_every_attempt_when_asked(run: Run) -> None:
    assert "02-bb" not in manyworlds("status", run.uri).out
    ended = manyworlds("status", run.uri, "--attempts")
    _, _, told = ended.out.partition("attempts, times in UTC")
    first, second, third, fourth = told.splitlines()[2:6]
    times = ["2026-01-01", "12:00:00", "2026-01-01", "12:01:30", "1", "min", "30", "s"]
    why = ["preemption", "spot-1", "its", "machine", "was", "taken"]
    assert first.split() == ["0", "01-aa", *times, *why]
    assert second.split() == ["0", "02-bb", "*", *times, "40", "done", "spot-2"]
    assert "out of memory" in third
    assert third.endswith("a smaller batch_size needs less")
    begun = ["2", "01-dd", "2026-01-01", "12:00:00"]
    assert fourth.split() == [*begun, "cut", "off"]

    def end() -> str:
        told = manyworlds("status", run.uri, "--attempts").out.partition("attempts, times in UTC")
        return told[2].splitlines()[5].split()[-1]

    with Lease(run.storage):
        assert end() == "runs"
        run.storage.delete(run.paths.progress(2, "01-dd"))
        assert end() == "waits"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_without_some_signs_shows_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    why = "no file 品名 nor half a \ud800 " + "and so on " * 20
    bad = attempt("01-cc", "data", message=why)
    run.save(WorldState(index=1, status="failed", attempts=(bad,)))
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding, newline=""))
    assert main(["status", run.uri, "--attempts"]) == 0
    told = out.getvalue().decode(encoding)
    assert ("no file 品名 nor" if encoding == "utf-8" else "no file ?? nor half a ?") in told
    assert "next:" in told


@pytest.mark.parametrize("words", [["status"], ["logs"], ["status", "--json"]])
def test_a_reader_that_leaves_ends_a_verb_quietly(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit, match="1"):
            main([*words, run.uri])
        # What is left of the output goes nowhere.
        print("more", file=out, flush=True)
        monkeypatch.undo()


def test_times_that_are_none_are_shown_as_they_are(run: Run) -> None:
    odd = replace(attempt("01-aa", "error"), started_at="[b]then", ended_at="2026-01-01T12:00:00")
    run.save(WorldState(index=0, attempts=(odd,)))
    ended = manyworlds("status", run.uri, "--attempts")
    assert ended.code == 0
    assert "01-aa    [b]then" in ended.out


def test_status_is_told_to_programs_too(run: Run) -> None:
    with Lease(run.storage):
        owner = owner_of(run.storage)
        assert owner is not None
        stopping.ask(run.storage, owner.token)
        ended = manyworlds("status", run.uri, "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert told["run"] == run.uri
    driver = {"host": owner.host, "pid": owner.pid, "since": owner.since, "alive": True}
    assert told["driver"] == driver
    assert set(told["stop"]) == {"host", "at"}
    assert told["ensemble"] is None
    assert [world["state"] for world in told["worlds"]] == ["done", "failed", "running"]
    assert [world["winner"] for world in told["worlds"]] == ["02-bb", None, None]
    assert told["worlds"][0]["attempts"] == list(run.state(0).to_dict()["attempts"])
    assert told["worlds"][2]["seconds_left"] == 2.0


def test_trouble_of_a_world_that_trains_on_is_shown(run: Run) -> None:
    values = {**PROGRESS, "trouble": "checkpoint 30: the disk is full"}
    run.storage.write_json(run.paths.progress(2, "01-dd"), values)
    with Lease(run.storage):
        ended = manyworlds("status", run.uri)
    assert "the disk is full" in ended.out
    (view,) = (view for view in api.status(run.uri).views if view.world == 2)
    assert "the disk is full" in display.line(replace(view, state="running"))
    assert "the disk is full" not in display.line(replace(view, state="done"))


def test_a_driver_elsewhere_may_be_dead(run: Run) -> None:
    with Lease(run.storage):
        values = run.storage.read_json(RunPaths.lease)
        run.storage.write_json(RunPaths.lease, {**values, "boot": "elsewhere"})
        ended = manyworlds("status", run.uri)
    assert "only its own host can tell" in ended.out
    assert ["resume", run.uri] in ended.next_commands


def test_rows_that_were_left_out_are_shown_for_good(run: Run) -> None:
    values = {**PROGRESS, "left_out_rows": 1200}
    run.storage.write_json(run.paths.progress(0, "02-bb"), values)
    assert "1,200 rows left out" in manyworlds("status", run.uri).out
    done = api.status(run.uri).views[0]
    assert display.line(done).endswith("1,200 rows left out")


def test_plain_lines_tell_trouble_at_once() -> None:
    written: list[str] = []
    shown = display.PlainLines(written.append, clock=lambda: 0.0)
    view = WorldView(world=0, state="running", attempts=1, step=1)
    for trouble in ("", "the disk is full", "the disk is full", ""):
        shown.show([replace(view, trouble=trouble)])
    assert ["full" in line for line in written] == [False, True, False]


@pytest.mark.parametrize("loss", ["low", [1], True, 10**400])
def test_altered_progress_is_told(run: Run, loss: Any) -> None:
    path = Path(run.uri, run.paths.progress(2, "01-dd"))
    path.write_text(json.dumps({"schema": 1, **PROGRESS, "loss": loss}))
    with pytest.raises(StorageError, match=r"progress\.json: expected a number as loss, found"):
        api.status(run.uri)


def test_an_ensemble_that_is_not_there_is_told(run: Run) -> None:
    run.storage.write_bytes(RunPaths.current, b"0123456789abcdef")
    with pytest.raises(StorageError, match=r"CURRENT: expected the name of an ensemble of"):
        api.status(run.uri)


def write_log(run: Run, world: int, name: str, text: str) -> None:
    run.storage.write_bytes(run.paths.log(world, name), text.encode())


def test_logs_of_a_world_are_those_of_its_newest_attempt(run: Run) -> None:
    write_log(run, 0, "01-aa", "old\n")
    write_log(run, 0, "02-bb", "".join(f"line {i}\n" for i in range(60)))
    log = manyworlds("logs", run.uri, "--world", "0")
    assert log.code == 0
    lines = log.out.splitlines()
    assert lines[0] == "world 0, attempt 02-bb"
    assert lines[1:51] == [f"line {i}" for i in range(10, 60)]
    assert lines[51] == ""
    assert log.next_commands == [["logs", run.uri], ["status", run.uri, "--attempts"]]
    short = manyworlds("logs", run.uri, "--world", "0", "--lines", "2").out.splitlines()
    assert short[1:4] == ["line 58", "line 59", ""]


def test_logs_of_an_older_attempt_can_be_asked_for(run: Run) -> None:
    write_log(run, 0, "01-aa", "old\nolder\n")
    write_log(run, 0, "02-bb", "new\n")
    (log,) = api.logs(run.uri, 0, "01-aa")
    assert (log.attempt, log.lines) == ("01-aa", ("old", "older"))
    with pytest.raises(RunError, match=r"attempts with a log, 01-aa, 02-bb, found '\.\./02-bb'"):
        api.logs(run.uri, 0, "../02-bb")
    with pytest.raises(RunError, match="of which there is none yet, found '01-cc'"):
        api.logs(run.uri, 1, "01-cc")


def test_logs_without_a_world_are_the_last_line_of_each(run: Run) -> None:
    write_log(run, 0, "01-aa", "began\nlost\n")
    write_log(run, 2, "01-dd", "began\nstep 30")
    ended = manyworlds("logs", run.uri)
    assert [line.split() for line in ended.out.splitlines()[:3]] == [
        ["world", "0", "01-aa", "lost"],
        ["world", "1", "no", "log", "yet"],
        ["world", "2", "01-dd", "step", "30"],
    ]
    assert ended.next_commands[0] == ["logs", run.uri, "--world", "0"]


def test_a_world_without_a_log_says_so(run: Run) -> None:
    ended = manyworlds("logs", run.uri, "--world", "1")
    assert (ended.code, ended.out.splitlines()[0]) == (0, "world 1: no log yet")


def test_a_log_cannot_move_the_cursor(run: Run) -> None:
    path = Path(run.uri, run.paths.log(2, "01-dd"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x1b[2Jgone\r\xff\tthere\n")
    (log,) = api.logs(run.uri, 2)
    assert log.lines[0].isprintable()
    assert "[2Jgone" in log.lines[0]
    assert log.lines[0].endswith(" there")


@pytest.mark.parametrize("words", [[], ["--attempts"], ["--watch"]])
def test_a_message_cannot_move_the_cursor(run: Run, words: list[str]) -> None:
    why = "\x1b[2J\x1b[31mred\x9b1A\rno 品名\u00a0and\ttabs"
    bad = attempt("01-cc", "error", message=why, node="a\x1b[2Jb")
    run.save(WorldState(index=1, status="failed", attempts=(bad,)))
    trouble = {**PROGRESS, "trouble": "two\nlines\x1b[2J"}
    run.storage.write_json(run.paths.progress(2, "01-dd"), trouble)
    told = manyworlds("status", run.uri, *words).out
    assert not {"\x1b", "\x9b", "\r"} & set(told)
    assert "[31mred" in told
    with Lease(run.storage):
        told = manyworlds("status", run.uri).out
    assert "two lines" in told


def test_how_a_run_ended_cannot_move_the_cursor(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    show(["world 1 failed: \x1b[2J", "  a\tname\u00a0of 品名"])
    assert capsys.readouterr().out == "world 1 failed: \ufffd[2J\n  a\tname\u00a0of 品名\n"


def test_logs_that_are_not_there_are_refused(run: Run) -> None:
    with pytest.raises(RunError, match="expected a world from 0 to 2, found 3"):
        api.logs(run.uri, 3)
    with pytest.raises(RunError, match="expected the world of attempt 01-aa too"):
        api.logs(run.uri, attempt="01-aa")
