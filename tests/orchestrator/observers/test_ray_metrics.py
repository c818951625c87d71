"""The worlds as metrics of Ray, on a cluster that there is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import ray

from orchestrator.executors import metrics
from orchestrator.executors.metrics import RayMetrics
from orchestrator.views import WorldView
from tests.orchestrator.observers.recording import RUN, RUNNING, summary

Point = tuple[str, float, tuple[str, ...]]


class Recorded:
    """All points that were recorded: name, value and the values of the tags."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def metric(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
        outer = self

        class Metric:
            def record(self, value: float, tags: dict[str, str]) -> None:
                assert tuple(tags) == tag_keys
                assert description
                outer.points.append((name, value, tuple(tags.values())))

            set = inc = record

        return Metric()

    def of(self, name: str) -> list[tuple[float, tuple[str, ...]]]:
        return [(value, tags) for found, value, tags in self.points if found == name]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    made = Recorded()
    monkeypatch.setattr(metrics, "Gauge", made.metric)
    monkeypatch.setattr(metrics, "Counter", made.metric)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return made


def observe(*looks: list[WorldView]) -> None:
    observer = RayMetrics()
    observer.begin(RUN)
    for views in looks:
        observer.saw(views)
    observer.end(summary())


def test_what_is_known_of_each_world_is_set(recorded: Recorded) -> None:
    observe([RUNNING, WorldView(world=1, state="pending")])
    first, second = ("runs/first", "0"), ("runs/first", "1")
    assert recorded.of("manyworlds_step") == [(50, first)]
    assert recorded.of("manyworlds_loss") == [(2.5, first)]
    assert recorded.of("manyworlds_bucket_accuracy") == []
    assert recorded.of("manyworlds_rows_per_second") == [(10.0, first), (0.0, second)]
    assert [value for value, _ in recorded.of("manyworlds_worlds")] == [1, 0, 0, 1, 0]
    assert recorded.of("manyworlds_worlds")[3][1] == ("runs/first", "pending")


def test_a_world_that_ended_is_no_longer_fast(recorded: Recorded) -> None:
    observe([replace(RUNNING, state="done")])
    assert recorded.of("manyworlds_rows_per_second") == [(0.0, ("runs/first", "0"))]


def test_attempts_are_counted_by_how_they_ended(recorded: Recorded) -> None:
    before = replace(RUNNING, ends=3, ended="preemption")
    hung = replace(RUNNING, ends=4, ended="hung")
    done = replace(RUNNING, state="done", ends=5, ended="done")
    observe([before], [before], [hung], [hung], [done])
    assert recorded.of("manyworlds_attempts") == [
        (1, ("runs/first", "0", "hung")),
        (1, ("runs/first", "0", "done")),
    ]


def test_nothing_is_recorded_where_the_cluster_was_left(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    observe([RUNNING])
    assert recorded.points == []
