"""One driver a run: the second refuses and names the first, and a dead one is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lease import TERM, Lease
from workers.errors import RunError, StorageError
from workers.storage import RunPaths, Storage


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_sleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def lease(storage: Storage, time: Time, *, take_over: bool = False) -> Lease:
    return Lease(storage, take_over=take_over, clock=time, sleep=time.sleep)


def change(storage: Storage, **values: Any) -> None:
    owner = storage.read_json(RunPaths.lease)
    storage.write_json(RunPaths.lease, {**owner, **values})


def test_a_lease_is_there_while_it_is_held(storage: Storage, time: Time) -> None:
    with lease(storage, time):
        assert storage.exists("driver.json")
    assert not storage.exists("driver.json")


def test_a_second_driver_on_the_host_refuses_at_once_and_names_the_first(
    storage: Storage, time: Time
) -> None:
    with lease(storage, time):
        pid = storage.read_json(RunPaths.lease)["pid"]
        with (
            pytest.raises(RunError, match=rf"found a driver: process {pid} on .*, since 2"),
            lease(storage, time),
        ):
            pytest.fail("two drivers")
        assert time.now == 1000.0
        assert storage.exists(RunPaths.lease)


@pytest.mark.parametrize("dead", [{"pid": 2**22 + 1}, {"started": "1"}])
def test_a_dead_driver_of_the_host_is_replaced_at_once(
    storage: Storage, time: Time, dead: dict[str, Any]
) -> None:
    with lease(storage, time):
        change(storage, token="first", **dead)
        with lease(storage, time):
            assert storage.read_json(RunPaths.lease)["token"] != "first"
        assert time.now == 1000.0


def test_a_silent_driver_elsewhere_is_replaced_after_the_term(storage: Storage, time: Time) -> None:
    with lease(storage, time):
        change(storage, token="first", boot="elsewhere", since="2100-01-01")
        with lease(storage, time):
            assert TERM <= time.now - 1000.0 <= 1.2 * TERM
            assert storage.read_json(RunPaths.lease)["token"] != "first"


def test_a_driver_elsewhere_that_gives_signs_of_life_is_left_alone(
    storage: Storage, time: Time
) -> None:
    with lease(storage, time):
        change(storage, token="first", boot="elsewhere", host="far")
        time.on_sleep = lambda: change(storage, beat=int(time.now))
        with pytest.raises(RunError, match=r"on far, since"), lease(storage, time):
            pytest.fail("two drivers")


def test_a_lease_can_be_taken_by_force(storage: Storage, time: Time) -> None:
    first = lease(storage, time)
    with first, lease(storage, time, take_over=True) as second:
        time.now += TERM
        with pytest.raises(RunError, match="found another driver"):
            first.renew()
        second.renew()


def test_renewing_writes_at_intervals(storage: Storage, time: Time) -> None:
    with lease(storage, time) as held:
        beats = []
        for _ in range(4):
            held.renew()
            beats.append(storage.read_json(RunPaths.lease)["beat"])
            time.now += TERM / 5
        assert beats == [1, 1, 2, 2]


def test_leaving_lets_another_drivers_lease_be(storage: Storage, time: Time) -> None:
    with lease(storage, time):
        change(storage, token="other")
    assert storage.read_json(RunPaths.lease)["token"] == "other"


@pytest.mark.parametrize("values", [{"pid": "../../self"}, {"since": None}, {"more": 1}])
def test_an_altered_lease_is_refused(storage: Storage, time: Time, values: dict[str, Any]) -> None:
    with lease(storage, time):
        change(storage, **values)
        with pytest.raises(StorageError, match="expected a lease"), lease(storage, time):
            pytest.fail("an altered lease was taken for whole")


def test_an_empty_lease_is_refused(storage: Storage, time: Time) -> None:
    storage.write_json(RunPaths.lease, {})
    with pytest.raises(StorageError, match="expected a lease"), lease(storage, time):
        pytest.fail("an empty lease was taken for whole")
