"""What a run looks like while it trains."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.display import (
    EVERY,
    LiveTable,
    PlainLines,
    choose,
    line,
    table,
)
from orchestrator.views import WorldView

RUNNING = WorldView(
    world=3,
    state="running",
    attempts=2,
    cause="preempted at 12:03",
    step=1200,
    steps=9000,
    rows_per_second=52_345.6,
    loss=3.2149,
    bucket_accuracy=0.4711,
    seconds_left=150.0,
)


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


def drawn(views: list[WorldView], room: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(table(views, room))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_line_says_all_that_is_known() -> None:
    assert line(RUNNING) == (
        "world   3 running   1,200/9,000  52,346 rows/s  loss 3.215  bucket accuracy 47.1%"
        "  2 min 30 s left  attempt 2  preempted at 12:03"
    )
    assert line(WorldView(world=12, state="pending")) == "world  12 pending"


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


def test_table_has_a_row_for_each_world_and_counts_states() -> None:
    lines = drawn([WorldView(world=0, state="done", step=9000, steps=9000), RUNNING])
    assert lines[0].strip() == "2 worlds: 1 running, 1 done"
    assert lines[1].split()[:4] == ["world", "state", "step", "rows/s"]
    assert lines[2].split() == ["0", "done", "9,000/9,000", "0"]
    for cell in ("3", "running", "1,200/9,000", "52,346", "3.215", "47.1%", "2 min 30 s"):
        assert f" {cell}" in f" {lines[3]}"
    assert lines[3].endswith("preempted at 12:03")


def test_table_shows_the_worlds_that_tell_most_when_there_is_no_room() -> None:
    states = ["done"] * 20 + ["running", "failed"] + ["pending"] * 10
    lines = drawn([WorldView(world=i, state=state) for i, state in enumerate(states)], room=4)
    assert lines[0].strip() == "32 worlds: 1 running, 1 failed, 10 pending, 20 done"
    assert [text.split()[1] for text in lines[2:6]] == ["running", "failed", "pending", "pending"]
    assert lines[6].strip() == "and 28 more"


def test_markup_in_a_cause_is_shown_as_it_is() -> None:
    cause = "ValueError: [bold]no such[/] thing"
    assert cause in "\n".join(drawn([replace(RUNNING, cause=cause)]))


def test_choose_draws_a_table_on_terminals_only() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, height=20)
    log = Console(file=io.StringIO(), force_terminal=False, width=40)
    assert isinstance(choose(terminal), LiveTable)
    with choose(log) as shown:
        shown.show([RUNNING])
    assert isinstance(log.file, io.StringIO)
    assert log.file.getvalue() == line(RUNNING) + "\n"


def test_live_table_is_drawn_with_what_was_shown_last() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=20)
    with LiveTable(console) as shown:
        shown.show([RUNNING])
        shown.show([replace(RUNNING, step=1300)])
    assert isinstance(console.file, io.StringIO)
    assert "1,300/9,000" in console.file.getvalue()
