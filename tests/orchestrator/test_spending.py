"""A cap on what a run may spend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from orchestrator.config import load
from orchestrator.executors import Started
from orchestrator.spending import Spending, hours_of
from orchestrator.state import Attempt, WorldState
from tests.orchestrator.fakes import FakeExecutor, driver, make_run
from workers.errors import ConfigError

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def attempt(began: float, ended: float | None = None) -> Attempt:
    """Return an attempt between two hours of the day."""
    first, last = (
        None if hour is None else (BEGAN + timedelta(hours=hour)).isoformat()
        for hour in (began, ended)
    )
    return Attempt(name="01-a", started_at=first or "", ended_at=last, node="host")


def hourly() -> Callable[[], datetime]:
    """Return a clock that is an hour later whenever it is looked at."""
    hours = count()
    return lambda: BEGAN + timedelta(hours=next(hours))


def test_the_hours_of_all_attempts_count_by_their_gpus() -> None:
    states = [
        WorldState(index=0, attempts=(attempt(0, 1), attempt(2, 2.5))),
        WorldState(index=1, attempts=(attempt(3),)),
    ]
    now = BEGAN + timedelta(hours=5)
    assert Spending(gpus=0.5).hours(states, now) == pytest.approx(1.75)
    assert Spending(gpus=0).hours(states, now) == pytest.approx(3.5)


def test_times_that_are_none_count_nothing() -> None:
    assert hours_of(Attempt(name="01-a", started_at="yesterday")) == 0
    assert hours_of(attempt(3)) == 0
    assert hours_of(attempt(3, 2)) == 0


def test_an_attempt_that_waits_costs_nothing_until_it_is_placed() -> None:
    waited = replace(attempt(0, 5), node=None)
    assert hours_of(waited) == 0
    executor = FakeExecutor(make_run(worlds=1))
    executor.holding, executor.placing = True, False
    held = driver(executor, now=lambda: BEGAN + timedelta(seconds=executor.now))
    held.step()
    executor.now = 7 * 3600.0
    executor.events.append(Started(0, executor.live[0], "host", "place"))
    held.step()
    executor.now = 9 * 3600.0
    executor.end(0)
    held.step()
    assert hours_of(executor.run.state(0).attempts[0]) == pytest.approx(2)


def test_no_world_begins_above_the_cap_and_those_that_run_go_on() -> None:
    executor = FakeExecutor(make_run(worlds=4))
    executor.holding = True
    capped = driver(
        executor,
        max_parallel=2,
        spending=Spending(cap=3.0, gpus=1.0),
        now=lambda: BEGAN + timedelta(seconds=executor.now),
    )
    capped.step()
    # They are placed.
    capped.step()
    executor.now = 3600.0
    executor.end(0)
    capped.step()
    capped.step()
    capped.step()
    assert sorted(executor.live) == [1, 2]
    executor.now = 2 * 3600.0
    executor.end(1)
    capped.step()
    assert sorted(executor.live) == [2], "four hours are spent"
    finished = [capped.finished]
    executor.end(2)
    capped.step()
    assert [*finished, capped.finished] == [False, True]
    summary = capped.summary()
    assert (summary.done, summary.pending) == ((0, 1, 2), (3,))
    assert "less than budget.gpu_hours = 3, spent 4.00" in (summary.error or "")
    assert not executor.stopped


def test_a_run_with_more_to_spend_goes_on() -> None:
    run = make_run(worlds=2)
    executor = FakeExecutor(run)
    clock = {"now": hourly()}
    first = driver(executor, max_parallel=1, spending=Spending(cap=0.5), **clock).run_to_end()
    assert len(first.done) == 1
    second = driver(executor, max_parallel=1, spending=Spending(cap=9.0), **clock).run_to_end()
    assert second.complete


def test_worlds_that_the_driver_is_not_asked_for_count_too() -> None:
    run = make_run(worlds=2)
    executor = FakeExecutor(run)
    clock = {"now": hourly()}
    driver(executor, only=[0], **clock).run_to_end()
    spent = driver(executor, only=[1], spending=Spending(cap=0.5), **clock).run_to_end()
    assert spent.pending == (1,)


def test_a_cap_of_nothing_is_told() -> None:
    settings = ["run=a", "data.train=b", "data.classes=50000", "data.text=[q]"]
    assert load(overrides=[*settings, "budget.gpu_hours=1.5"]).budget.gpu_hours == 1.5
    with pytest.raises(ConfigError, match=r"budget\.gpu_hours: expected null or a positive number"):
        load(overrides=[*settings, "budget.gpu_hours=0"])
