"""The table of worlds, on wide and narrow terminals, of few worlds and of hundreds."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.display import table
from orchestrator.views import WorldView
from tests.orchestrator import builders

RUNNING = replace(builders.RUNNING, device="H200", node="gpu-7", epoch=1, epochs=3)
WELL = replace(RUNNING, attempts=1, cause="")
FAILED = replace(RUNNING, state="failed", ended="error", ends=3, cause="error: expected a number")
HEADINGS = [
    "world", "state", "device", "node", "epoch", "step", "rows/s", "loss", "bucket acc.", "left",
    "tries", "remark",
]  # fmt: skip


def drawn(views: list[WorldView], room: int | None = None, width: int = 160) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table(views, room))
    return [text.rstrip() for text in out.getvalue().splitlines()]


def headings(text: str) -> list[str]:
    """Return the headings in a line, in order."""
    found = [heading for heading in HEADINGS if heading in text]
    assert text.split() == " ".join(found).split()
    return found


def many(worlds: int, nodes: int = 1) -> list[WorldView]:
    """Return worlds of which a tenth run, some failed, and a third is done."""
    states = ["running"] * (worlds // 10) + ["failed"] * 2 + ["done"] * (worlds // 3)
    states += ["pending"] * (worlds - len(states))
    known = {"running": WELL, "failed": FAILED, "done": replace(WELL, state="done", step=9000)}
    return [
        replace(known.get(state, WorldView(world=0, state=state)), world=world, node=node)
        for world, state in enumerate(states)
        for node in [f"gpu-{world % nodes}" if state != "pending" else ""]
    ]


def test_a_run_is_summed_up_above_its_worlds() -> None:
    done = WorldView(world=0, state="done", step=9000, steps=9000)
    counts, pace, empty, heading, first, second = drawn([done, RUNNING])
    assert counts == "2 worlds: 1 running, 1 done"
    assert pace.endswith("56.7%  52,346 rows/s  2 min 30 s left")
    assert empty == ""
    assert headings(heading) == HEADINGS
    assert first.split() == ["0", "done", "9,000/9,000", "0"]
    assert second.split() == [
        "3", "running", "H200", "gpu-7", "1/3", "1,200/9,000", "52,346", "3.215", "47.1%",
        "2", "min", "30", "s", "2", "preempted", "at", "12:03",
    ]  # fmt: skip


def test_columns_that_have_nothing_to_say_are_left_out() -> None:
    lines = drawn([WorldView(world=0, state="pending")])
    assert headings(lines[3]) == [
        heading for heading in HEADINGS if heading not in ("device", "node", "epoch", "remark")
    ]


@pytest.mark.parametrize(
    ("width", "views", "gone"),
    [
        (120, [WELL], ["remark"]),
        (100, [WELL], ["remark"]),
        (80, [WELL], ["device", "tries", "node", "remark"]),
        (120, [RUNNING], []),
        (100, [RUNNING], ["device", "tries"]),
        (80, [RUNNING], ["device", "tries", "node", "epoch", "rows/s"]),
    ],
)
def test_narrow_terminals_lose_what_tells_least(
    width: int, views: list[WorldView], gone: list[str]
) -> None:
    lines = drawn(views, width=width)
    assert headings(lines[3]) == [heading for heading in HEADINGS if heading not in gone]
    assert all(len(text) <= width for text in lines)
    row = lines[4]
    assert all(word in row for word in ("3", "running", "1,200/9,000", "3.215", "47.1%"))
    assert "2 min 30 s" in row
    assert "preempted at" in row or not views[0].cause


@pytest.mark.parametrize(("width", "words"), [(80, "error: expected a…"), (160, FAILED.cause)])
def test_a_cause_is_cut_to_what_the_terminal_has(width: int, words: str) -> None:
    assert drawn([FAILED], width=width)[4].endswith(words)


def test_machines_are_named_in_short_where_that_tells_them_apart() -> None:
    nodes = ["a-host (0123abcd)", "ray-cluster-worker-group-x7f2k (4567abcd)"]
    views = [replace(WELL, world=world, node=node) for world, node in enumerate(nodes)]
    assert [text.split()[3] for text in drawn(views)[4:]] == ["a-host", "…-worker-group-x7f2k"]
    same = [replace(WELL, world=world, node=f"host (0{world})") for world in range(2)]
    assert ["host (00)" in drawn(same)[4], "host (01)" in drawn(same)[5]] == [True, True]


@pytest.mark.parametrize(
    ("nodes", "shown"),
    [
        (
            [f"ip-10-0-{last}.eu-central-1.compute.internal" for last in ("1-17", "2-4")],
            ["ip-10-0-1-17", "ip-10-0-2-4"],
        ),
        (["10.0.0.17", "10.0.0.18"], ["10.0.0.17", "10.0.0.18"]),
        (["gpu.eu.example", "gpu.us.example"], ["gpu.eu.example", "gpu.us.example"]),
        (
            [f"{name}-of-the-cluster-in-the-cellar ({name})" for name in ("0a1b", "2c3d")],
            ["…n-the-cellar (0a1b)", "…n-the-cellar (2c3d)"],
        ),
    ],
)
def test_machines_are_told_apart_however_they_are_named(nodes: list[str], shown: list[str]) -> None:
    views = [replace(WELL, world=world, node=node) for world, node in enumerate(nodes)]
    rows = drawn(views)[4:]
    assert all(f"  {name}  " in text for name, text in zip(shown, rows, strict=True))


def test_markup_in_a_cause_is_shown_as_it_is() -> None:
    cause = "ValueError: [bold]no such[/] thing"
    assert cause in "\n".join(drawn([replace(RUNNING, cause=cause)]))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("nodes", [1, 4, 64])
@pytest.mark.parametrize(("worlds", "height"), [(8, 24), (80, 24), (80, 60), (800, 24), (800, 60)])
def test_worlds_fit_the_terminal_however_many(
    width: int, nodes: int, worlds: int, height: int
) -> None:
    lines = drawn(many(worlds, nodes), room=height, width=width)
    assert len(lines) <= height
    assert all(len(text) <= width for text in lines)
    assert lines[0].startswith(f"{worlds} worlds: ")
    assert sum("error: " in text for text in lines) == 2


def test_worlds_that_do_not_fit_are_rolled_up() -> None:
    lines = drawn(many(800), room=24)
    assert lines[0] == "800 worlds: 80 running, 2 failed, 452 pending, 266 done"
    assert lines[3].split() == ["state", "worlds", "made", "rows/s", "loss", "bucket", "acc."]
    assert lines[4].split() == ["running", "80", "13.3%", "4,187,648", "3.215", "47.1%"]
    assert lines[7].split() == ["done", "266", "100.0%", "3.215", "47.1%"]
    assert lines[9] == "worlds to look at"
    assert [text.split()[:2] for text in lines[11:13]] == [["80", "failed"], ["81", "failed"]]
    assert lines[13].endswith("among the slowest: 100% of the usual rows/s")
    assert not any(text.startswith("node") for text in lines)


def test_machines_are_told_where_there_are_several() -> None:
    lines = drawn(many(800, nodes=16), room=24)
    (heading,) = (i for i, text in enumerate(lines) if text.startswith("node"))
    assert lines[heading].split() == ["node", "device", "running", "rows/s", "done"]
    assert lines[heading + 1].split()[:4] == ["gpu-0", "H200", "5", "261,728"]
    assert any(text.strip().endswith("machines more") for text in lines)


@pytest.mark.parametrize(
    ("others", "title"),
    [([], "worlds that run"), ([FAILED], "worlds to look at, and all that run")],
)
def test_all_that_run_are_told_where_there_is_room(others: list[WorldView], title: str) -> None:
    pending = [WorldView(world=world, state="pending") for world in range(10, 60)]
    views = [*(replace(WELL, world=world) for world in range(3)), *others, *pending]
    lines = drawn(views, room=24)
    (start,) = (i for i, text in enumerate(lines) if text == title)
    assert [text.split()[1] for text in lines[start + 2 :]] == [
        *(view.state for view in others), "running", "running", "running",
    ]  # fmt: skip


def test_how_many_more_there_are_to_look_at_is_told() -> None:
    views = [replace(FAILED, world=world) for world in range(100)]
    lines = drawn(views, room=20)
    shown = sum("error: " in text for text in lines)
    assert 5 <= shown < 20
    assert lines[-1] == f"and {100 - shown} more"


def test_every_world_is_shown_where_there_is_no_bound() -> None:
    assert len(drawn(many(300))) == 304
