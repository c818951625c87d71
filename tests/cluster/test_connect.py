"""Reaching a cluster, and sharing it out: without one."""

from __future__ import annotations

import socket
from typing import Literal

import pytest
import ray
from ray.exceptions import AuthenticationError

from orchestrator.executors import cluster
from orchestrator.executors.cluster import connect
from orchestrator.executors.room import Demand, Machine, demand_of
from workers.errors import RunError


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.fixture
def closed() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return f"127.0.0.1:{port}"


def test_an_address_where_nobody_is_is_refused(alone: None, closed: str) -> None:
    with pytest.raises(RunError, match=rf"cluster\.address={closed}: expected a Ray cluster"):
        connect(closed)


def test_a_cluster_that_hangs_up_may_want_a_token(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up(*words: object, **more: object) -> None:
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "init", hang_up)
    with pytest.raises(RunError, match="set RAY_AUTH_MODE=token if it asks for a token"):
        connect("local")


def test_the_address_of_the_environment_is_refused_likewise(
    alone: None, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(RunError, match=rf"cluster\.address={closed}: expected a Ray cluster"):
        connect("auto")


def test_auto_says_which_cluster_it_takes(
    alone: None, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "started_here", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.foretold("auto").startswith("no Ray cluster is named or runs here")
    monkeypatch.setattr(cluster, "started_here", lambda: closed)
    assert f"{closed}, which runs on this machine already" in cluster.foretold("auto")
    with pytest.raises(RunError, match=r"which runs on this machine already, found none that"):
        connect("auto")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster.foretold("auto").startswith("Ray cluster at head:6379, which RAY_ADDRESS names")
    assert cluster.foretold("local") == cluster.foretold("head:1") == ""


def test_a_dashboard_is_no_cluster_to_join(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(RunError, match=r"that of a dashboard is for --submit"):
        connect("auto")


def test_a_token_that_a_cluster_refuses_is_told(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object, **more: object) -> None:
        raise AuthenticationError("it is another one")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(RunError, match=r"token, found: it is another one; set RAY_AUTH_MODE"):
        connect("local")


@pytest.mark.parametrize("address", ["cluster", "host:", "host:port"])
def test_what_is_no_address_is_refused(alone: None, address: str) -> None:
    with pytest.raises(RunError, match=r"it is no HOST:PORT; start one with `ray start --head`"):
        connect(address)


@pytest.mark.parametrize(
    ("worlds", "found", "gpus", "cpus", "wanted"),
    [
        (8, [Machine(2, 0)], "auto", "auto", Demand(1, 0)),
        (1, [Machine(2, 0)], "auto", "auto", Demand(2, 0)),
        (8, [Machine(8, 0)], "auto", "auto", Demand(4, 0)),
        (8, [Machine(64, 0)], "auto", "auto", Demand(8, 0)),
        (32, [Machine(64, 0)], "auto", "auto", Demand(4, 0)),
        (8, [Machine(16, 0), Machine(8, 0)], "auto", "auto", Demand(4, 0)),
        (8, [Machine(1, 0)], "auto", "auto", Demand(1, 0)),
        (8, [Machine(16, 4)], "auto", "auto", Demand(4, 1)),
        (1, [Machine(16, 4)], "auto", "auto", Demand(4, 1)),
        (8, [Machine(0, 0), Machine(32, 8), Machine(12, 2)], "auto", "auto", Demand(4, 1)),
        (8, [Machine(2, 4)], "auto", "auto", Demand(1, 1)),
        (8, [Machine(16, 2)], 0.5, "auto", Demand(4, 0.5)),
        (8, [Machine(16, 4)], 2, "auto", Demand(8, 2)),
        (8, [Machine(16, 4)], 0, 3, Demand(3, 0)),
        (8, [], "auto", "auto", Demand(1, 0)),
    ],
)
def test_a_world_gets_its_share_of_a_machine(
    worlds: int,
    found: list[Machine],
    gpus: float | Literal["auto"],
    cpus: int | Literal["auto"],
    wanted: Demand,
) -> None:
    assert demand_of(worlds, found, gpus=gpus, cpus=cpus) == wanted


@pytest.mark.parametrize(
    ("machine", "demand", "room"),
    [
        (Machine(8, 0), Demand(3, 0), 2),
        (Machine(8, 2), Demand(1, 1), 2),
        (Machine(1, 2), Demand(1, 1), 1),
        (Machine(8, 1), Demand(1, 0.5), 2),
        (Machine(8, 2), Demand(1, 0.4), 4),
        (Machine(8, 3), Demand(1, 2), 1),
        (Machine(8, 0), Demand(1, 1), 0),
        (Machine(0, 8), Demand(1, 1), 0),
    ],
)
def test_room_is_what_fits_by_cpus_and_by_gpus(machine: Machine, demand: Demand, room: int) -> None:
    assert machine.room(demand) == room
