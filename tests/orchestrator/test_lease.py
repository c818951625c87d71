"""One driver a run: the second refuses and names the first, and a dead one is replaced."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lease import TERM, Lease, is_alive, owner_of
from workers.errors import RunError, StorageError
from workers.storage import RunPaths, Storage

PATIENCE = 30.0
"""Seconds after which a test that waits for a thread has failed."""


class Time:
    """A clock that moves only when somebody sleeps, and intervals that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_sleep: Callable[[], None] = lambda: None
        self.waited: list[float] = []
        self._waits = threading.Semaphore(0)
        self._passed = threading.Semaphore(0)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait like the event, but for as long as the test says."""
        self.waited.append(seconds)
        self._waits.release()
        while not event.is_set():
            if self._passed.acquire(timeout=0.01):
                return False
        return True

    def pass_interval(self, *, last: bool = False) -> None:
        """Let one wait end, and return once the thread waits again, or for the last time did."""
        assert self._waits.acquire(timeout=PATIENCE)
        self._passed.release()
        if not last:
            assert self._waits.acquire(timeout=PATIENCE)
            self._waits.release()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def lease(storage: Storage, time: Time, *, take_over: bool = False) -> Lease:
    return Lease(storage, take_over=take_over, clock=time, sleep=time.sleep, wait=time.wait)


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
    with lease(storage, time) as first:
        (thread,) = lease_threads()
        later = Time()
        with lease(storage, later, take_over=True) as second:
            first.renew()
            time.pass_interval(last=True)
            thread.join(PATIENCE)
            with pytest.raises(RunError, match="found another driver"):
                first.renew()
            later.pass_interval()
            second.renew()


def lease_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_signs_of_life_are_given_at_intervals_whatever_the_driver_does(
    storage: Storage, time: Time
) -> None:
    with lease(storage, time):
        beats = [storage.read_json(RunPaths.lease)["beat"]]
        for _ in range(3):
            time.pass_interval()
            beats.append(storage.read_json(RunPaths.lease)["beat"])
    assert beats == [1, 2, 3, 4]
    assert set(time.waited) == {TERM / 3}


def test_storage_that_is_gone_for_a_while_loses_no_lease(
    storage: Storage, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Storage, path: str, values: object, *, schema: int = 1) -> None:
        raise StorageError("expected storage, found none")

    with lease(storage, time) as held:
        with monkeypatch.context() as broken:
            broken.setattr(Storage, "write_json", gone)
            time.pass_interval()
        held.renew()
        assert storage.read_json(RunPaths.lease)["beat"] == 1
        time.pass_interval()
        assert storage.read_json(RunPaths.lease)["beat"] > 1


def test_nothing_is_written_once_the_lease_is_left(storage: Storage, time: Time) -> None:
    with lease(storage, time):
        (thread,) = lease_threads()
    assert not thread.is_alive()
    assert not storage.exists(RunPaths.lease)


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


@pytest.mark.parametrize("values", [{"pid": 0}, {"pid": -1}, {"beat": -1}])
def test_a_lease_of_no_process_is_refused(storage: Storage, values: dict[str, int]) -> None:
    owner = {"host": "a", "boot": "", "pid": 1, "started": "", "token": "b", "since": "", "beat": 1}
    storage.write_json(RunPaths.lease, {**owner, **values})
    with pytest.raises(StorageError, match="expected a lease"):
        owner_of(storage)


def test_an_empty_lease_is_refused(storage: Storage, time: Time) -> None:
    storage.write_json(RunPaths.lease, {})
    with pytest.raises(StorageError, match="expected a lease"), lease(storage, time):
        pytest.fail("an empty lease was taken for whole")


def test_anybody_can_read_who_drives(storage: Storage, time: Time) -> None:
    assert owner_of(storage) is None
    with lease(storage, time) as held:
        owner = owner_of(storage)
        assert owner is not None
        assert (owner.token, owner.pid) == (held.token, os.getpid())
        change(storage, pid="1")
        with pytest.raises(StorageError, match="expected a lease"):
            owner_of(storage)


@pytest.mark.parametrize(
    ("values", "alive"),
    [({}, True), ({"started": "1"}, False), ({"pid": 2**22 + 1}, False), ({"boot": "far"}, None)],
)
def test_a_host_can_tell_about_its_own_processes_alone(
    storage: Storage, time: Time, values: dict[str, Any], alive: bool | None
) -> None:
    with lease(storage, time):
        change(storage, **values)
        owner = owner_of(storage)
        assert owner is not None
        assert is_alive(owner) is alive
