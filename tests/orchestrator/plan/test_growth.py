"""What more worlds would bring."""

from __future__ import annotations

import pytest

from orchestrator.evaluations import KeptEvaluation
from orchestrator.plan import gains, world_hours
from orchestrator.state import Attempt, WorldState


def measured(curve: dict[int, float]) -> KeptEvaluation:
    """Return an evaluation with one curve, twice as high for recall."""
    metrics = {
        ("log", worlds): {"P@1": value, "P@5": value / 2, "R@1": value, "R@10": 2 * value}
        for worlds, value in curve.items()
    }
    return KeptEvaluation(ensemble="e", data="d", rows=9, at="", metrics=metrics)


def test_a_curve_is_continued_by_how_its_gains_fall() -> None:
    found = gains(measured({1: 0.1, 2: 0.2, 4: 0.25, 8: 0.275}))
    assert [(gain.combiner, gain.metric) for gain in found] == [("log", "P@1"), ("log", "R@10")]
    assert found[0].doubled == pytest.approx(0.2875)
    assert found[1].doubled == pytest.approx(0.575)
    assert found[0].curve == {1: 0.1, 2: 0.2, 4: 0.25, 8: 0.275}


def test_a_gain_is_never_taken_to_rise() -> None:
    (gain, _) = gains(measured({1: 0.1, 2: 0.12, 4: 0.2}))
    assert gain.doubled == pytest.approx(0.28)


def test_a_curve_that_fell_is_not_continued_downwards() -> None:
    (gain, _) = gains(measured({1: 0.1, 2: 0.2, 4: 0.19}))
    assert gain.doubled == 0.19


def test_what_would_pass_one_is_one() -> None:
    (_, gain) = gains(measured({1: 0.2, 2: 0.34, 4: 0.48}))
    assert gain.doubled == 1


@pytest.mark.parametrize("worlds", [(1,), (1, 2), (1, 2, 3), (2, 4, 6)])
def test_a_curve_without_three_doublings_is_left_as_it_is(worlds: tuple[int, ...]) -> None:
    (gain, _) = gains(measured({count: 0.1 + count / 100 for count in worlds}))
    assert gain.doubled is None


def test_all_attempts_at_the_worlds_that_are_done_count() -> None:
    def state(index: int, status: str, *ends: str) -> WorldState:
        attempts = tuple(
            Attempt(
                name=f"0{number}-a",
                started_at=f"2026-01-01T0{number}:00:00",
                ended_at=end,
                node="host",
            )
            for number, end in enumerate(ends, start=1)
        )
        return WorldState(index=index, status=status, attempts=attempts)  # type: ignore[arg-type]

    done = state(0, "done", "2026-01-01T01:30:00", "2026-01-01T04:00:00")
    other = state(1, "failed", "2026-01-01T09:00:00")
    assert world_hours([done, other]) == pytest.approx(2.5)
    assert world_hours([other]) is None
