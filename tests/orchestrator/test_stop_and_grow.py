"""A run that is stopped from elsewhere, gone on with, and given more worlds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api, stopping
from orchestrator.api import RunSummary
from orchestrator.config import RunConfig
from orchestrator.lease import TERM, Lease, Owner, owner_of
from orchestrator.run import Run
from orchestrator.state import WorldState
from orchestrator.stopping import LOOK_EVERY, Requests, wait_until_left
from orchestrator.views import WorldView
from tests.orchestrator.builders import attempt, begun, copied, final, run_config, trained
from tests.orchestrator.command import manyworlds
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
def run(tmp_path: Path) -> Run:
    return begun(tmp_path)


def change_lease(run: Run, **values: Any) -> None:
    run.storage.write_json(RunPaths.lease, {**run.storage.read_json(RunPaths.lease), **values})


def owner(run: Run) -> Owner:
    found = owner_of(run.storage)
    assert found is not None
    return found


def test_without_a_driver_there_is_nothing_to_stop(run: Run) -> None:
    ended = manyworlds("stop", run.uri)
    assert ended.code == 0
    told = [f"{run.uri}: nobody drives it", "there is nothing to stop", ""]
    assert ended.out.splitlines()[:3] == told
    assert ended.next_commands == [["resume", run.uri]]
    assert not run.storage.exists(RunPaths.stop)


def test_a_dead_driver_is_not_waited_for(run: Run) -> None:
    with Lease(run.storage):
        change_lease(run, pid=2**22 + 1)
        ended = manyworlds("stop", run.uri)
        assert ended.code == 0
        assert "its driver seems to be dead: process 4194305" in ended.out
        assert not run.storage.exists(RunPaths.stop)


def test_a_driver_can_be_asked_without_waiting(run: Run) -> None:
    with Lease(run.storage) as lease:
        ended = manyworlds("stop", run.uri, "--no-wait")
        assert ended.code == 0
        assert f"driven by process {owner(run).pid}" in ended.out
        assert "it was asked to stop by somebody on" in ended.out
        assert Requests(run.storage, lease.token).look()


def test_a_driver_looks_for_requests_now_and_then(run: Run, time: Time) -> None:
    with Lease(run.storage) as lease:
        requests = Requests(run.storage, lease.token, clock=time)
        assert requests.look() is None
        stopping.ask(run.storage, lease.token)
        time.now += LOOK_EVERY / 2
        assert requests.look() is None
        time.now += LOOK_EVERY / 2
        assert requests.look() is not None
        run.storage.delete(RunPaths.stop)
        time.now += LOOK_EVERY
        assert requests.look() is not None


def test_a_request_to_an_earlier_driver_stops_no_later_one(run: Run) -> None:
    with Lease(run.storage) as first:
        stopping.ask(run.storage, first.token)
    with Lease(run.storage) as second:
        assert Requests(run.storage, second.token).look() is None
        stopping.withdraw(run.storage, second.token)
        assert Requests(run.storage, first.token).look() is not None


@pytest.mark.parametrize(
    "data", [b"", b"\xff{", b"[]", b'{"schema": 1}', b'{"schema": 2, "token": "TOKEN"}']
)
def test_a_file_that_is_no_request_stops_nothing(run: Run, data: bytes) -> None:
    with Lease(run.storage) as lease:
        run.storage.write_bytes(RunPaths.stop, data.replace(b"TOKEN", lease.token.encode()))
        assert Requests(run.storage, lease.token).look() is None


def test_a_storage_that_is_away_stops_nothing(
    run: Run, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(storage: Storage, path: str) -> bool:
        raise StorageError("no connection")

    with Lease(run.storage) as lease:
        stopping.ask(run.storage, lease.token)
        requests = Requests(run.storage, lease.token, clock=time)
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "exists", away)
            assert requests.look() is None
        time.now += LOOK_EVERY
        assert requests.look() is not None


def test_stop_says_what_it_waits_for(run: Run, time: Time) -> None:
    running = [
        WorldState(index=world, status="running", attempts=(attempt(f"01-a{world}", None),))
        for world in range(3)
    ]
    for state in running:
        run.save(state)
    told: list[str] = []
    lease = Lease(run.storage)
    with lease:
        driver = owner(run)

        def leave() -> None:
            if running:
                run.save(replace(running.pop(), status="pending"))
            else:
                lease.__exit__()

        time.on_sleep = leave
        wait_until_left(run, driver, told.append, clock=time, sleep=time.sleep)
    assert told == [
        f"waiting for {driver}: {left}"
        for left in (
            "3 worlds still running (0-2)",
            "2 worlds still running (0, 1)",
            "1 world still running (0)",
            "no world runs any more",
        )
    ]


def test_stop_does_not_wait_for_the_next_driver(run: Run, time: Time) -> None:
    with Lease(run.storage):
        driver = owner(run)
        time.on_sleep = lambda: change_lease(run, token="next")
        wait_until_left(run, driver, lambda line: None, clock=time, sleep=time.sleep)
    assert time.now == 1000.0 + LOOK_EVERY


def test_a_driver_that_dies_instead_of_leaving_is_told(run: Run, time: Time) -> None:
    with Lease(run.storage):
        driver = owner(run)
        time.on_sleep = lambda: change_lease(run, started="0")
        with pytest.raises(RunError, match="found that it is dead"):
            wait_until_left(run, driver, lambda line: None, clock=time, sleep=time.sleep)


def test_a_driver_elsewhere_is_dead_after_a_term_of_silence(run: Run, time: Time) -> None:
    with Lease(run.storage):
        change_lease(run, boot="elsewhere")
        driver = owner(run)

        def beat() -> None:
            if time.now < 1000.0 + 2 * TERM:
                change_lease(run, beat=int(time.now))

        time.on_sleep = beat
        with pytest.raises(RunError, match="found no sign of life for 30 s"):
            wait_until_left(run, driver, lambda line: None, clock=time, sleep=time.sleep)
    assert 3 * TERM - LOOK_EVERY <= time.now - 1000.0 <= 3 * TERM + LOOK_EVERY


@contextmanager
def training(config: RunConfig) -> Iterator[list[RunSummary]]:
    """Train in another thread; on entry the first world runs, on leaving all is over."""
    running = threading.Event()
    summaries: list[RunSummary] = []

    def listen(views: Sequence[WorldView]) -> None:
        if any(view.step for view in views):
            running.set()

    def work() -> None:
        try:
            summaries.append(api.train(config, listener=listen))
        finally:
            running.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert running.wait(60)
        yield summaries
    finally:
        thread.join(60)
        assert not thread.is_alive()


def test_stop_lets_worlds_checkpoint_and_the_driver_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "LOOK_EVERY", 0.05)
    config = run_config(tmp_path, "training.epochs=100000", "merge.min_worlds=1")
    with training(config) as summaries:
        ended = manyworlds("stop", config.run)
        assert ended.code == 0, ended.err
        assert owner_of(Storage(config.run)) is None
    assert f"{config.run}: nobody drives it" in ended.out
    assert ended.next_commands == [["resume", config.run]]
    (summary,) = summaries
    assert (summary.pending, summary.error, summary.ensemble) == ((0, 1, 2), None, None)
    assert summary.stopped is not None
    assert summary.stopped.startswith("by somebody on ")
    run = Run.open(config.run)
    (last,) = run.state(0).attempts
    assert (last.cause, run.state(0).status) == ("stopped", "pending")
    newest = run.paths.newest_checkpoint(0)
    assert newest is not None
    assert newest.step == last.steps > 0
    assert not run.storage.exists(RunPaths.stop)


def test_a_run_that_was_stopped_and_cleaned_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "LOOK_EVERY", 0.0)
    settings = ["training.epochs=50", "worlds=1", "runtime.checkpoint_steps=40"]
    whole = run_config(tmp_path, *settings, f"run={tmp_path / 'whole'}")
    config = run_config(tmp_path, *settings, "runtime.report_steps=5")

    def stop(views: Sequence[WorldView]) -> None:
        if views[0].step:
            api.stop(config.run, wait=False)

    assert api.train(config, listener=stop).pending == (0,)
    assert api.clean(config.run, dry_run=True) == api.clean(config.run)
    assert manyworlds("resume", config.run, "--worlds", "0").code == 0
    there, here = final(trained(whole), 0), final(Path(config.run), 0)
    weights = "model.safetensors"
    assert (here / weights).read_bytes() == (there / weights).read_bytes()
    assert len(Run.open(config.run).state(0).attempts) == 2


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of three worlds."""
    return trained(run_config(tmp_path_factory.mktemp("source")))


def test_a_run_grows_and_its_finished_worlds_are_left_alone(three: Path, tmp_path: Path) -> None:
    run = str(copied(three, tmp_path / "run", merged=True))
    before = api.status(run)
    ended = manyworlds("grow", run, "worlds=5")
    assert ended.code == 0, ended.err
    assert "5 of 5 worlds done" in ended.out
    after = api.status(run)
    assert after.states[:3] == before.states
    assert [state.status for state in after.states] == ["done"] * 5
    assert after.ensemble not in (None, before.ensemble)
    again = manyworlds("grow", run, "worlds=5")
    assert (again.code, api.status(run)) == (0, after)
    dropped = [item.path for item in api.clean(run) if item.path.startswith("ensembles/")]
    assert [f"{run}/{path}" for path in dropped] == [before.ensemble]


def test_a_run_never_shrinks(three: Path) -> None:
    ended = manyworlds("grow", str(three), "worlds=2")
    assert ended.code == 2
    assert "expected at least the 3 worlds that the run has, found 2" in ended.err
    assert api.status(str(three)).config.worlds == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected worlds=N once, found nothing"),
        (["cluster.max_parallel=2"], "expected worlds=N once, found nothing"),
        (["worlds=4", "worlds=5"], "expected worlds=N once, found worlds=4, worlds=5"),
        (["worlds=many"], "worlds: expected a whole number from 1, found 'many'"),
        (["worlds=2000"], "worlds: expected 1 to 1000, found 2000"),
        (["worlds=4", "model.hidden=[9]"], "model.hidden: the run has [8], found [9]"),
    ],
)
def test_grow_says_what_it_expects(three: Path, words: list[str], message: str) -> None:
    ended = manyworlds("grow", str(three), *words)
    assert ended.code == 2
    assert message in ended.err
    assert api.status(str(three)).config.worlds == 3
