"""What a run looks like while it trains."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.display import (
    DRAWN_EVERY,
    EVERY,
    MANY,
    LiveTable,
    PlainLines,
    choose,
    line,
)
from orchestrator.rollup import remark
from orchestrator.views import WorldView
from tests.orchestrator.builders import RUNNING


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def plain(clock: Clock) -> tuple[PlainLines, list[str]]:
    written: list[str] = []
    return PlainLines(written.append, clock=clock), written


def test_line_says_all_that_is_known() -> None:
    assert line(RUNNING) == (
        "world   3 running   1,200/9,000  52,346 rows/s  loss 3.215  bucket accuracy 47.1%"
        "  2 min 30 s left  attempt 2  preempted at 12:03"
    )
    assert line(WorldView(world=12, state="pending")) == "world  12 pending"


@pytest.mark.parametrize("why", ["error: KeyError: x (train.py:100: in f)", "data: [b]a[/b] :x:"])
def test_plain_lines_are_written_as_they_are(why: str) -> None:
    out = io.StringIO()
    shown = choose(Console(file=out, highlight=False, width=40))
    shown.show([replace(RUNNING, cause=why)])
    assert out.getvalue() == f"{line(replace(RUNNING, cause=why))}\n"


@pytest.mark.parametrize(
    ("state", "cause", "told"),
    [
        ("running", "stopped", ""),
        ("waiting", "stopped", ""),
        ("waiting", "1 GPU more", "1 GPU more"),
        ("running", "hung: no sign of life", "hung: no sign of life"),
        ("pending", "stopped", "stopped"),
    ],
)
def test_a_stop_that_is_over_is_not_told_of_what_goes_on(state: str, cause: str, told: str) -> None:
    view = WorldView(world=0, state=state, attempts=2, cause=cause, ends=1, ended="stopped")
    assert remark(view) == told
    assert line(view).endswith(told or "attempt 2")


def test_plain_lines_tell_every_change_of_state_at_once(clock: Clock) -> None:
    show, written = plain(clock)
    view = WorldView(world=0, state="pending")
    for state in ("pending", "running", "waiting", "running", "done"):
        view = replace(view, state=state, attempts=view.attempts + (state == "running"))
        show.show([view])
    assert [text.split()[2] for text in written] == ["running", "waiting", "running", "done"]


def test_plain_lines_space_out_progress_by_the_clock(clock: Clock) -> None:
    show, written = plain(clock)
    for step in range(20):
        show.show([replace(RUNNING, step=step)])
        clock.now += EVERY / 4
    assert [text.split()[3] for text in written] == [f"{n}/9,000" for n in (0, 4, 8, 12, 16)]


def test_plain_lines_keep_quiet_where_nothing_moves(clock: Clock) -> None:
    show, written = plain(clock)
    for _ in range(10):
        show.show([RUNNING, WorldView(world=4, state="pending")])
        clock.now += EVERY
    assert len(written) == 1


def test_plain_lines_space_worlds_out_apart_from_each_other(clock: Clock) -> None:
    show, written = plain(clock)
    show.show([RUNNING])
    show.show([RUNNING, replace(RUNNING, world=4)])
    assert [text.split()[1] for text in written] == ["3", "4"]


def test_plain_lines_tell_of_many_worlds_in_one(clock: Clock) -> None:
    show, written = plain(clock)
    views = [replace(RUNNING, world=world, attempts=1, cause="") for world in range(MANY + 1)]
    show.show(views)
    assert len(written) == len(views) + 1
    assert written[-1] == "17 worlds: 17 running  13.3%  889,875 rows/s  2 min 30 s left"
    del written[:]
    for step in range(1201, 1209):
        show.show([replace(view, step=step) for view in views])
        clock.now += EVERY / 4
    assert [text.split()[0] for text in written] == ["17"]
    show.show([replace(views[0], state="done"), *views[1:]])
    assert [text.split()[:3] for text in written[1:]] == [
        ["world", "0", "done"],
        ["17", "worlds:", "16"],
    ]


def test_choose_draws_a_table_on_terminals_only() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, height=20)
    log = Console(file=io.StringIO(), force_terminal=False, width=40)
    assert isinstance(choose(terminal), LiveTable)
    with choose(log) as shown:
        shown.show([RUNNING])
    assert isinstance(log.file, io.StringIO)
    assert log.file.getvalue() == line(RUNNING) + "\n"


@pytest.mark.parametrize("colours", [{"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}, {}])
def test_a_log_stays_one_where_colours_are_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], colours: dict[str, str]
) -> None:
    for name, value in colours.items():
        monkeypatch.setenv(name, value)
    with choose() as shown:
        shown.show([RUNNING])
    assert capsys.readouterr().out == line(RUNNING) + "\n"


def test_a_terminal_that_cannot_draw_over_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    assert isinstance(choose(terminal), PlainLines)


def live(clock: Clock) -> tuple[LiveTable, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, height=20)
    return LiveTable(console, clock=clock), out


def test_live_table_is_drawn_with_what_was_shown_last(clock: Clock) -> None:
    made, out = live(clock)
    with made as shown:
        shown.show([RUNNING])
        shown.show([replace(RUNNING, step=1300)])
        assert "1,300/9,000" not in out.getvalue()
    assert "1,300/9,000" in out.getvalue()


def test_live_table_is_not_drawn_for_every_step(clock: Clock) -> None:
    made, out = live(clock)
    with made as shown:
        for step in range(2000, 2008):
            shown.show([replace(RUNNING, step=step)])
            clock.now += DRAWN_EVERY / 4
        drawn = [step for step in range(2000, 2008) if f"{step:,}/9,000" in out.getvalue()]
    assert drawn == [2000, 2004]


def test_live_table_is_drawn_at_once_when_a_state_changes(clock: Clock) -> None:
    made, out = live(clock)
    with made as shown:
        shown.show([RUNNING])
        shown.show([replace(RUNNING, state="failed")])
        assert "failed" in out.getvalue()
