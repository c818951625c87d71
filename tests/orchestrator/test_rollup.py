"""What many worlds come to together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.rollup import MANY, Spread, by_node, by_state, to_look_at, totals
from orchestrator.views import WorldView

PENDING = WorldView(world=0, state="pending")


def running(
    world: int, *, left: float = 100.0, share: float = 0.5, rate: float = 50.0
) -> WorldView:
    return WorldView(
        world=world,
        state="running",
        attempts=1,
        step=round(1000 * share),
        steps=1000,
        rows_per_second=rate,
        seconds_left=left,
        loss=2.0 + world,
        bucket_accuracy=0.1,
        node="a",
    )


def pending(*worlds: int) -> list[WorldView]:
    return [replace(PENDING, world=world) for world in worlds]


def test_totals_add_up() -> None:
    worlds = [*pending(0), running(1), running(2), running(3, rate=70.0)]
    found = totals([*worlds, replace(running(4), state="done", step=None)])
    assert list(found.counts.items()) == [("running", 3), ("pending", 1), ("done", 1)]
    assert found.worlds == 5
    assert found.share == pytest.approx((3 * 0.5 + 1) / 5)
    assert found.rows_per_second == 170.0
    assert found.loss == Spread(least=3.0, median=4.5, most=6.0)


def test_totals_of_nothing_known_promise_nothing() -> None:
    found = totals(pending(0, 1))
    assert (found.share, found.seconds_left, found.loss) == (0.0, None, None)
    assert totals([]).share == 0.0


def test_time_left_is_that_of_the_last_running_world() -> None:
    assert totals([running(0, left=30.0), running(1, left=90.0)]).seconds_left == 90.0


@pytest.mark.parametrize(("queued", "left"), [(1, 300.0), (2, 300.0), (3, 500.0), (8, 900.0)])
def test_time_left_counts_worlds_that_are_to_come(queued: int, left: float) -> None:
    # Half done with 100 s to go: a whole world takes 200 s, and two run side by side.
    views = [running(0), running(1), *pending(*range(2, 2 + queued))]
    assert totals(views).seconds_left == pytest.approx(left)


def test_time_left_trains_only_what_is_missing_of_a_world() -> None:
    resumed = replace(PENDING, world=1, step=900, steps=1000)
    assert totals([running(0), resumed]).seconds_left == pytest.approx(100 + 20)


def test_time_left_takes_worlds_that_wait_for_a_place_as_running() -> None:
    waiting = replace(PENDING, world=1, state="waiting")
    assert totals([running(0), waiting]).seconds_left == pytest.approx(200.0)


def test_time_left_leaves_out_what_failed() -> None:
    assert totals([running(0), replace(PENDING, world=1, state="failed")]).seconds_left == 100.0


def test_states_are_told_apart() -> None:
    groups = by_state([*pending(0, 1), running(2)])
    assert [group.counts for group in groups] == [{"running": 1}, {"pending": 2}]


def test_machines_are_told_the_slowest_first() -> None:
    views = [running(0, rate=80.0), running(1, rate=60.0), *pending(9)]
    views += [replace(running(2, rate=20.0), node="b", device="H200")]
    views += [replace(running(3), node="c", state="done")]
    places = by_node(views)
    assert [(place.node, place.running, place.done) for place in places] == [
        ("b", 1, 0), ("a", 2, 0), ("c", 0, 1),
    ]  # fmt: skip
    assert (places[0].device, places[1].rows_per_second) == ("H200", 140.0)


def test_worlds_to_look_at_are_those_that_need_it_worst_first() -> None:
    again = replace(running(3), attempts=2, ends=1, ended="preemption", cause="preemption: gone")
    views = [
        running(0),
        replace(again, world=1, ended="stopped", cause="stopped"),
        replace(running(2), left_out_rows=7),
        again,
        replace(running(4), trouble="the disk is full"),
        replace(PENDING, world=5, state="waiting", cause="a world needs 8 GPUs"),
        replace(running(6), state="failed", cause="error: no", attempts=3, ends=3, ended="error"),
        replace(again, world=7, state="done", ended="done", cause=""),
        *pending(8),
    ]
    assert [(view.world, words) for view, words in to_look_at(views)] == [
        (6, "error: no"),
        (5, "a world needs 8 GPUs"),
        (4, "the disk is full"),
        (3, "preemption: gone"),
        (2, "7 rows left out"),
    ]


def test_the_slowest_of_many_are_looked_at() -> None:
    views = [running(world, rate=100.0 + world) for world in range(MANY)]
    views[4] = replace(views[4], rows_per_second=52.5)
    found = to_look_at(views)
    assert [view.world for view, _ in found] == [4, 0, 1]
    assert found[0][1] == "among the slowest: 50% of the usual rows/s"
    assert to_look_at(views[:5]) == []
