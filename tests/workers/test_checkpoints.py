"""Checkpoints beside the training: what waits for what, what goes wrong, and late writers."""

from __future__ import annotations

import copy
import errno
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.workers.builders import (
    await_checkpoints,
    bits,
    stopped_at,
    unhurried,
    world_config,
    write_queries,
)
from workers.attempt import Stopped, run_attempt
from workers.checkpoints import Checkpoints
from workers.config import WorldConfig
from workers.errors import StorageError, StorageUnreachable
from workers.log import AttemptLog
from workers.storage import FileEntry, RunPaths, Storage, from_json, to_json
from workers.world import World

STEPS = 66
FIRST, SECOND = "01-aaaa", "02-bbbb"
WriteFile = Callable[..., FileEntry]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> WorldConfig:
    return world_config(write_queries(tmp_path_factory.mktemp("queries")))


@pytest.fixture(scope="module")
def undisturbed(config: WorldConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the sha256 of the weights of world 0, trained in one go."""
    receipt = run_attempt(str(tmp_path_factory.mktemp("run")), config, 0, FIRST)
    return str(receipt["model_sha256"])


def attempt_folder(run: Path, attempt: str) -> Path:
    return run / "worlds/000/attempts" / attempt


def checkpoints(run: Path, attempt: str) -> list[int]:
    folder = attempt_folder(run, attempt) / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir()) if folder.exists() else []


def logged(run: Path, attempt: str, pattern: str) -> list[str]:
    return re.findall(pattern, (attempt_folder(run, attempt) / "log.txt").read_text())


def written(run: Path, attempt: str) -> list[int]:
    """Return the steps of the checkpoints that an attempt wrote, in order."""
    return [int(step) for step in logged(run, attempt, r"INFO +checkpoint of step (\d+)")]


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class Hook:
    """Calls `before(path)` ahead of every `Storage.write_file`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: Callable[[str], None] = lambda path: None
        self.paths: list[str] = []
        real: WriteFile = Storage.write_file

        def write_file(storage: Storage, path: str, *more: Any) -> FileEntry:
            self.before(path)
            self.paths.append(path)
            return real(storage, path, *more)

        monkeypatch.setattr(Storage, "write_file", write_file)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Hook:
    return Hook(monkeypatch)


def test_no_step_waits_for_a_checkpoint_to_be_written(
    tmp_path: Path, config: WorldConfig, undisturbed: str, hook: Hook
) -> None:
    free = threading.Event()
    hook.before = lambda path: (free.wait(), None)[1]
    asked = 0

    def stop() -> bool:
        nonlocal asked
        if asked == 25:
            # 25 steps were made, and the checkpoint of step 10 is not written yet.
            assert checkpoints(tmp_path, FIRST) == []
            free.set()
        if asked >= 25:
            await_checkpoints()
        asked += 1
        return False

    receipt = run_attempt(str(tmp_path), config, 0, FIRST, stop=stop)
    # That of step 20 is taken at the first step after the write has ended.
    assert written(tmp_path, FIRST) == [10, 26, 30, 40, 50, 60]
    assert receipt["model_sha256"] == undisturbed


def test_a_copy_that_is_being_written_holds_what_the_world_was(
    tmp_path: Path, config: WorldConfig, undisturbed: str, hook: Hook
) -> None:
    # Written ten steps after it was taken, and then the only thing that is left.
    free = threading.Event()
    hook.before = lambda path: (free.wait(), None)[1]
    asked = iter(range(STEPS))

    def stop() -> bool:
        if next(asked) < 20:
            return False
        hook.before = refuse("/00000020/")
        free.set()
        return True

    with pytest.raises(Stopped):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=stop)
    assert checkpoints(tmp_path, FIRST) == [10]
    receipt = run_attempt(str(tmp_path), config, 0, SECOND)
    assert receipt["resumed_from"].endswith("00000010")
    assert receipt["model_sha256"] == undisturbed


def test_whoever_stops_waits_and_then_checkpoints(
    tmp_path: Path, config: WorldConfig, hook: Hook
) -> None:
    free = threading.Event()
    hook.before = lambda path: (free.wait(), None)[1]
    stopping = stopped_at(12)

    def stop() -> bool:
        if stopping():
            free.set()
            return True
        return False

    with pytest.raises(Stopped, match=r"^world 0 stopped at step 12$"):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=stop)
    assert [path.split("/")[-2] for path in hook.paths] == ["00000010"] * 3 + ["00000012"] * 3
    assert checkpoints(tmp_path, FIRST) == [12]


def test_the_weights_are_handed_in_after_the_last_checkpoint(
    tmp_path: Path, config: WorldConfig, hook: Hook
) -> None:
    free = threading.Event()
    hook.before = lambda path: (free.wait(), None)[1]

    def report(progress: dict[str, Any]) -> None:
        if progress["step"] == STEPS:
            free.set()

    run_attempt(str(tmp_path), config, 0, FIRST, report=report)
    folders = [path.split("/")[-2] for path in hook.paths]
    assert folders == ["00000010"] * 3 + ["final"] * 3


def test_a_world_that_stops_where_it_resumed_writes_nothing(
    tmp_path: Path, config: WorldConfig, undisturbed: str
) -> None:
    for attempt in (FIRST, SECOND):
        with pytest.raises(Stopped):
            run_attempt(str(tmp_path), config, 0, attempt, stop=stopped_at(12 * (attempt == FIRST)))
    assert checkpoints(tmp_path, FIRST) == [12]
    assert checkpoints(tmp_path, SECOND) == []
    receipt = run_attempt(str(tmp_path), config, 0, "03-cccc")
    assert receipt["model_sha256"] == undisturbed


def refuse(part: str, error: Exception | None = None) -> Callable[[str], None]:
    def before(path: str) -> None:
        if part in path:
            raise error or StorageError(f"{path}: expected room, found none; free some")

    return before


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("error", [None, OSError(errno.ENOSPC, "No space left on device")])
def test_a_checkpoint_that_cannot_be_written_ends_nothing(
    tmp_path: Path,
    config: WorldConfig,
    undisturbed: str,
    hook: Hook,
    name: str,
    error: Exception | None,
) -> None:
    told: dict[int, str | None] = {}

    def report(progress: dict[str, Any]) -> None:
        told[progress["step"]] = progress["trouble"]
        if progress["step"] == 35:
            # The last good one stays, and nothing is left of the other.
            assert checkpoints(tmp_path, FIRST) == [20]

    hook.before = refuse(f"/00000030/{name}", error)
    receipt = run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried(), report=report)
    assert receipt["model_sha256"] == undisturbed
    assert written(tmp_path, FIRST) == [10, 20, 40, 50, 60]
    assert checkpoints(tmp_path, FIRST) == [60]
    trouble = {step for step, words in told.items() if words}
    assert trouble == {33, 35, 40}
    words = str(told[35])
    assert re.fullmatch(r"checkpoint of step 30: .*; the last good one is of step 20", words)
    assert logged(tmp_path, FIRST, r"WARNING (.*)") == [words]


def test_a_world_killed_in_trouble_goes_on_from_the_last_good_checkpoint(
    tmp_path: Path, config: WorldConfig, undisturbed: str, hook: Hook
) -> None:
    hook.before = refuse("/00000030/")
    wanted = r"stopped at step 30; checkpoint of step 30: .*; the last good one is of step 20"
    with pytest.raises(Stopped, match=wanted):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried(stopped_at(30)))
    hook.before = refuse("/checkpoints/")
    with pytest.raises(Stopped, match="the last good one is of step 20"):
        run_attempt(str(tmp_path), config, 0, SECOND, stop=unhurried(stopped_at(20)))
    receipt = run_attempt(str(tmp_path), config, 0, "03-cccc")
    assert receipt["resumed_from"].endswith(f"{FIRST}/checkpoints/00000020")
    assert receipt["model_sha256"] == undisturbed


def test_a_first_checkpoint_that_fails_says_that_there_is_none(
    tmp_path: Path, config: WorldConfig, hook: Hook
) -> None:
    hook.before = refuse("/checkpoints/")
    with pytest.raises(Stopped, match=r"; there is no good one yet$"):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=stopped_at(3))


def test_weights_that_cannot_be_handed_in_are_an_error(
    tmp_path: Path, config: WorldConfig, undisturbed: str, hook: Hook
) -> None:
    hook.before = refuse("/final/model")
    with pytest.raises(StorageError, match="expected room, found none"):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried())
    assert logged(tmp_path, FIRST, r"ERROR +.*final/model.safetensors: expected room")
    hook.before = lambda path: None
    receipt = run_attempt(str(tmp_path), config, 0, SECOND)
    assert receipt["resumed_from"].endswith(f"{FIRST}/checkpoints/00000060")
    assert receipt["model_sha256"] == undisturbed


def test_an_error_that_nobody_foresaw_ends_the_attempt(
    tmp_path: Path, config: WorldConfig, hook: Hook
) -> None:
    hook.before = refuse("/00000010/", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_attempt(str(tmp_path), config, 0, FIRST)
    assert logged(tmp_path, FIRST, r"ERROR +(Traceback)")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only a user who may mount has a disk to fill")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_outlived(
    tmp_path: Path, config: WorldConfig, undisturbed: str, small_disk: Path
) -> None:
    filler = small_disk / "filler"
    told: dict[int, str | None] = {}

    def report(progress: dict[str, Any]) -> None:
        step = progress["step"]
        told[step] = progress["trouble"]
        await_checkpoints()
        if step == 15:
            with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
        elif step == 45:
            filler.unlink()

    run = small_disk / "run"
    receipt = run_attempt(str(run), config, 0, FIRST, stop=unhurried(), report=report)
    assert receipt["model_sha256"] == undisturbed
    assert "No space left on device" in str(told[40])
    assert told[10] is told[STEPS] is None
    assert written(run, FIRST) == [10, 50, 60]
    # Told by the report that met it, and once the disk had room by the log too.
    assert logged(run, FIRST, r"WARNING checkpoint of step (\d+)") == ["20", "30", "40"]


def test_a_late_attempt_cannot_spoil_a_newer_one(
    tmp_path: Path, config: WorldConfig, undisturbed: str
) -> None:
    late, go_on = threading.Event(), threading.Event()
    receipts: list[dict[str, Any]] = []

    def pause_at_15(progress: dict[str, Any]) -> None:
        if progress["step"] == 15:
            late.set()
            go_on.wait()

    def old() -> None:
        receipts.append(
            run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried(), report=pause_at_15)
        )

    thread = threading.Thread(target=old)
    thread.start()
    late.wait()
    receipts.append(run_attempt(str(tmp_path), config, 0, SECOND, stop=unhurried()))
    before = contents(attempt_folder(tmp_path, SECOND))
    go_on.set()
    thread.join()
    assert contents(attempt_folder(tmp_path, SECOND)) == before
    assert receipts[0]["resumed_from"].endswith(f"{FIRST}/checkpoints/00000010")
    assert [receipt["model_sha256"] for receipt in receipts] == [undisturbed] * 2
    # It wrote, and deleted, as one that is alone.
    assert written(tmp_path, FIRST) == [10, 20, 30, 40, 50, 60]
    assert checkpoints(tmp_path, FIRST) == [60]
    for attempt in (FIRST, SECOND):
        Storage(str(tmp_path)).verify(f"worlds/000/attempts/{attempt}/final")


@pytest.mark.parametrize("further", [True, False])
def test_a_checkpoint_that_a_late_attempt_removes_while_it_is_read(
    tmp_path: Path, config: WorldConfig, undisturbed: str, further: bool
) -> None:
    # What the late attempt has at step 20 is made beforehand, in another run.
    for run, step in (("run", 10), ("other", 20)):
        with pytest.raises(Stopped):
            run_attempt(str(tmp_path / run), config, 0, FIRST, stop=stopped_at(step))
    theirs = attempt_folder(tmp_path / "run", FIRST) / "checkpoints"
    beats = 0

    def beat() -> None:
        # The first is that of a world that is ready, the second of a file that is being read.
        nonlocal beats
        beats += 1
        if beats == 2:
            if further:
                shutil.copytree(
                    attempt_folder(tmp_path / "other", FIRST) / "checkpoints/00000020",
                    theirs / "00000020",
                )
            shutil.rmtree(theirs / "00000010")

    receipt = run_attempt(str(tmp_path / "run"), config, 0, SECOND, beat=beat)
    resumed = receipt["resumed_from"]
    assert resumed.endswith(f"{FIRST}/checkpoints/00000020") if further else resumed is None
    assert receipt["model_sha256"] == undisturbed
    assert logged(tmp_path / "run", SECOND, "of step 10 was removed while it was read")


def test_a_storage_that_cannot_be_reached_is_no_reason_to_begin_anew(
    tmp_path: Path, config: WorldConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=stopped_at(5))

    def local(storage: Storage, path: str) -> Path:
        raise StorageError(f"{path}: expected storage that can be read, found a cut cable")

    monkeypatch.setattr(Storage, "local", local)
    with pytest.raises(StorageError, match="found a cut cable"):
        run_attempt(str(tmp_path), config, 0, SECOND)
    assert logged(tmp_path, SECOND, r"ERROR +.*cut cable")


def test_a_disk_that_does_not_answer_is_no_reason_to_begin_anew(
    tmp_path: Path, config: WorldConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=stopped_at(5))

    def stale(path: Path, beat: Callable[[], None]) -> Iterator[bytes]:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("workers.checkpoints.file_chunks", stale)
    with pytest.raises(StorageUnreachable, match="Stale file handle"):
        run_attempt(str(tmp_path), config, 0, SECOND)


def test_a_checkpoint_of_other_rows_is_passed_over(
    tmp_path: Path, config: WorldConfig, undisturbed: str
) -> None:
    with pytest.raises(Stopped):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=stopped_at(20))
    paths = RunPaths(Storage(str(tmp_path)))
    found = next(paths.checkpoints(0))
    files = ("model.safetensors", "optimizer.safetensors", "state.json")
    kept: dict[str, Any] = {
        name: paths.storage.read_bytes(f"{found.folder}/{name}") for name in files
    }
    state = from_json(kept["state.json"], "state.json")
    content = state["data"]["content"]
    paths.storage.write_json(paths.dataset, {"content": copy.deepcopy(content)})
    shard = next(iter(content))
    content[shard]["0"] = ["0" * 32 for _ in content[shard]["0"]]
    paths.storage.commit(found.folder, {**kept, "state.json": to_json(state)})
    receipt = run_attempt(str(tmp_path), config, 0, SECOND)
    assert receipt["resumed_from"] is None
    assert receipt["model_sha256"] == undisturbed
    assert logged(tmp_path, SECOND, "passed over the checkpoint of step 20: .*first read")


def test_a_checkpoint_elsewhere_is_read_back(
    tmp_path: Path, config: WorldConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    paths = RunPaths(Storage("mock:///bucket/run"))
    with (
        closing(AttemptLog(paths, 0, FIRST)) as log,
        closing(World(config, 0)) as before,
        closing(World(config, 0)) as after,
    ):
        with pytest.raises(Stopped):
            before.train(stop=stopped_at(7))
        Checkpoints(paths, FIRST, log, lambda: None).last(before)
        found = Checkpoints(paths, SECOND, log, lambda: None).resume(after)
        assert found == next(paths.checkpoints(0))
        assert found.step == after.step == 7
        assert bits(after.parameters) == bits(before.parameters)
        assert bits(after.optimizer_state) == bits(before.optimizer_state)
    assert list(tmp_path.iterdir()) == []
