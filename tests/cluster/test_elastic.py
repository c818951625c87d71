"""Worlds that wait for machines, choose among them by label, and share their GPUs: for real."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.cluster_utils import Cluster

from orchestrator.config import RetryConfig
from orchestrator.driver import Driver, Summary, WorldStatus
from orchestrator.executors import ray as ray_executor
from orchestrator.executors.ray import RayExecutor
from orchestrator.run import Run
from tests.cluster.machines import SMALL, joined
from tests.orchestrator.attempts import Call, attempt
from workers.config import WorldConfig

QUICK = RetryConfig(backoff_seconds=0.0, backoff_cap_seconds=0.0)
GO = "go"
"""The file in a run's folder that lets the attempts end."""
MARKET = "ray.io/market-type"
CHOICES = (f"{MARKET}=spot", f"{MARKET}=on-demand")

Add = Callable[..., Any]
Listener = Callable[[Sequence[WorldStatus]], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Return a cluster of a head that has no room for worlds."""
    with joined(num_cpus=0, num_gpus=0) as nodes:
        yield nodes


@pytest.fixture
def add(cluster: Cluster) -> Iterator[Add]:
    """Return what adds a machine of so many GPUs, of a market; they go after the test."""

    def machine(gpus: int, market: str = "") -> Any:
        labels = {MARKET: market} if market else {}
        return cluster.add_node(num_cpus=4, num_gpus=gpus, object_store_memory=SMALL, labels=labels)

    yield machine
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(str(tmp_path / "run"), {"seed": 3}, {"worlds": 3})


@attempt
def waits_for_go(call: Call) -> Any:
    """Say where it is, and work until the file is there."""
    labels = ray.get_runtime_context().get_node_labels()
    market = labels.get("ray.io/market-type", "")
    call.report({"market": market, "gpus": os.environ["CUDA_VISIBLE_DEVICES"]})
    while not Path(call.run_uri, GO).exists():
        call.beat()
        threading.Event().wait(0.02)
    return call.commit()


def train(
    run: Run, listener: Listener, heartbeat: Callable[[], None] = lambda: None, **settings: Any
) -> Summary:
    settings = {"gpus_per_world": 1, "cpus_per_world": 1, **settings}
    executor = RayExecutor(
        run.uri, WorldConfig(), worlds=run.worlds, attempt=waits_for_go, **settings
    )
    driver = Driver(run, executor, retry=QUICK, listener=listener, heartbeat=heartbeat)
    try:
        return driver.run_to_end()
    finally:
        executor.close()


def go(run: Run) -> None:
    Path(run.uri, GO).touch()


def working(worlds: Sequence[WorldStatus]) -> list[WorldStatus]:
    return [status for status in worlds if status.status == "running" and status.progress]


def asked_for(worlds: Sequence[WorldStatus]) -> int:
    return sum(status.attempts > 0 for status in worlds)


def test_worlds_begin_as_machines_come(cluster: Cluster, run: Run, add: Add) -> None:
    seen: list[int] = []

    def listen(worlds: Sequence[WorldStatus]) -> None:
        if asked_for(worlds) and not seen:
            # The first world waits where there is no machine at all.
            seen.append(len(working(worlds)))
            add(1)
        elif len(working(worlds)) == 1 and len(seen) == 1:
            seen.append(1)
            add(2)
        elif len(working(worlds)) == 3:
            seen.append(3)
            go(run)

    assert train(run, listen).done == (0, 1, 2)
    assert seen[:3] == [0, 1, 3]
    assert [[item.cause for item in state.attempts] for state in run.states()] == [["done"]] * 3


@pytest.mark.parametrize(("wanted", "asked"), [(0, 1), (2, 2)])
def test_as_many_worlds_as_are_wanted_wait_for_an_autoscaler(
    cluster: Cluster, run: Run, add: Add, wanted: int, asked: int
) -> None:
    seen: list[int] = []

    def listen(worlds: Sequence[WorldStatus]) -> None:
        if asked_for(worlds) and not seen:
            seen.append(asked_for(worlds))
            add(3)
        go(run)

    assert train(run, listen, wanted=wanted).complete
    assert seen == [asked]


def test_spot_machines_come_first_then_others_by_choice_and_no_third(
    cluster: Cluster, run: Run, add: Add
) -> None:
    for market in ("", "on-demand", "spot"):
        add(1, market)
    seen: list[list[str]] = []

    def listen(worlds: Sequence[WorldStatus]) -> None:
        markets = [str(status.progress["market"]) for status in working(worlds)]
        seen.append(markets)
        if len(markets) == 2:
            go(run)

    assert train(run, listen, choices=CHOICES).done == (0, 1, 2)
    assert ["spot", "on-demand"] in seen
    assert not any("" in markets for markets in seen)


def test_a_world_whose_spot_machine_is_taken_back_moves(
    cluster: Cluster, tmp_path: Path, add: Add
) -> None:
    run = Run.create(str(tmp_path / "one"), {"seed": 3}, {"worlds": 1})
    spot = [add(1, "spot")]
    markets: list[str] = []

    def listen(worlds: Sequence[WorldStatus]) -> None:
        for status in working(worlds):
            if (market := str(status.progress["market"])) not in markets:
                markets.append(market)
        if markets == ["spot"] and spot:
            add(1, "on-demand")
            cluster.remove_node(spot.pop(), allow_graceful=False)
        elif markets == ["spot", "on-demand"]:
            go(run)

    assert train(run, listen, choices=CHOICES).complete
    assert [item.cause for item in run.state(0).attempts] == ["preemption", "done"]


def blocks_at_first(folder: str) -> int:
    """Never return on the machine that asks first, whose world so never says where it is."""
    try:
        Path(folder, "asked").touch(exist_ok=False)
    except FileExistsError:
        return 0
    threading.Event().wait()
    raise AssertionError


def test_a_machine_that_came_late_and_went_before_its_world_began_is_a_preemption(
    cluster: Cluster, tmp_path: Path, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "_AGAIN", 0.0)
    run = Run.create(str(tmp_path / "one"), {"seed": 3}, {"worlds": 1})
    go(run)
    late: list[Any] = []

    def listen(worlds: Sequence[WorldStatus]) -> None:
        if asked_for(worlds) and not late:
            late.append(add(1))

    def take_away() -> None:
        if late and Path(tmp_path, "asked").exists() and late[0] in cluster.worker_nodes:
            cluster.remove_node(late[0], allow_graceful=False)
            add(1)

    kills = partial(blocks_at_first, str(tmp_path))
    assert train(run, listen, take_away, count_kills=kills).complete
    assert [item.cause for item in run.state(0).attempts] == ["preemption", "done"]


def rented(address: str) -> set[str]:
    """Return which markets Ray's autoscaler turns to for what waits, if spot machines are out."""
    waits = get_cluster_resource_state(GcsClient(address)).pending_resource_requests
    kinds = {"head": NodeTypeConfig("head", 0, 1)}
    for market in ("spot", "on-demand"):
        kinds[market] = NodeTypeConfig(
            market, 0, 4, resources={"CPU": 4, "GPU": 1}, labels={MARKET: market}
        )
    out = {"spot": 0.0}
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=kinds,
        max_num_nodes=9,
        resource_requests=list(waits),
        cloud_resource_availabilities=out,
        recoverable_resource_availabilities=out,
    )
    nobody: Any = Mock()
    return {
        item.instance_type for item in ResourceDemandScheduler(nobody).schedule(request).to_launch
    }


def test_an_autoscaler_that_finds_no_spot_machine_is_asked_for_others(
    cluster: Cluster, run: Run, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "_AGAIN", 0.0)
    monkeypatch.setattr(ray_executor, "_TURN", 0.0)
    executor = RayExecutor(
        run.uri, WorldConfig(), worlds=1, gpus_per_world=1, cpus_per_world=1, choices=CHOICES
    )
    try:
        executor.start(0, "01-a")
        seen: list[set[str]] = []
        while {"on-demand"} not in seen and len(seen) < 100:
            seen.append(rented(cluster.address))
            executor.wait(0.1)
            assert executor.poll() == []
        assert seen[-1] == {"on-demand"}
    finally:
        executor.close()


def test_machines_of_no_choice_are_no_room_for_worlds(cluster: Cluster, run: Run, add: Add) -> None:
    add(2, "reserved")
    executor = RayExecutor(
        run.uri, WorldConfig(), worlds=3, gpus_per_world=1, choices=CHOICES, attempt=waits_for_go
    )
    try:
        assert executor.slots() == 0
        assert "machine that cluster.machines takes, and there is no machine" in executor.lacking()
        add(2, "spot")
        assert executor.slots() == 2
    finally:
        executor.close()


def test_two_worlds_share_a_gpu(cluster: Cluster, run: Run, add: Add) -> None:
    add(1)
    seen: list[list[str]] = []

    def listen(worlds: Sequence[WorldStatus]) -> None:
        gpus = [str(status.progress["gpus"]) for status in working(worlds)]
        seen.append(gpus)
        if len(gpus) == 2:
            go(run)

    assert train(run, listen, gpus_per_world=0.5).done == (0, 1, 2)
    assert ["0", "0"] in seen
