from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers.log import LINES, AttemptLog
from workers.storage import RunPaths, Storage
from workers.storage.formats import FileEntry

FOLDER = "worlds/003/attempts/01-aaaa"
MIDDAY = 1_800_000_000.7


class FailingStorage(Storage):
    """Writes nothing while it is full; holds every write until it may begin."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.full = False
        self.free = threading.Event()
        self.free.set()

    def write_bytes(self, path: str, data: bytes) -> FileEntry:
        self.free.wait()
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write_bytes(path, data)


@pytest.fixture
def storage(tmp_path: Path) -> FailingStorage:
    return FailingStorage(str(tmp_path))


@pytest.fixture
def log(storage: FailingStorage) -> AttemptLog:
    return AttemptLog(RunPaths(storage), 3, "01-aaaa", clock=lambda: MIDDAY)


def lines(storage: Storage) -> list[str]:
    return storage.read_bytes(f"{FOLDER}/log.txt").decode().splitlines()


def metrics(storage: Storage) -> list[dict[str, Any]]:
    folder = f"{FOLDER}/metrics"
    files = [storage.read_bytes(f"{folder}/{name}") for name in storage.numbered(folder)]
    return [json.loads(line) for line in b"".join(files).splitlines()]


def test_a_line_has_time_level_and_message(storage: Storage, log: AttemptLog) -> None:
    log.info("began")
    log.warning("slow")
    log.error("one\ntwo\n")
    log.close()
    assert lines(storage) == [
        "2027-01-15T08:00:00Z INFO    began",
        "2027-01-15T08:00:00Z WARNING slow",
        "2027-01-15T08:00:00Z ERROR   one",
        "    two",
    ]
    assert log.trouble is None


def test_the_newest_lines_are_kept(storage: FailingStorage, log: AttemptLog) -> None:
    storage.free.clear()
    for number in range(LINES + 5):
        log.info(str(number))
    storage.free.set()
    log.close()
    found = lines(storage)
    assert (len(found), found[0].split()[-1], found[-1].split()[-1]) == (1000, "5", "1004")


def test_the_newest_progress_and_all_metrics_are_kept(
    storage: FailingStorage, log: AttemptLog
) -> None:
    # The first is being written while the others come.
    storage.free.clear()
    for step in range(5):
        log.progress({"step": step})
    storage.free.set()
    log.close()
    assert storage.read_json(f"{FOLDER}/progress.json") == {"step": 4}
    assert metrics(storage) == [{"step": step} for step in range(5)]


def test_nothing_is_lost_to_a_storage_that_fails_for_a_while(
    storage: FailingStorage, log: AttemptLog
) -> None:
    log.info("before")
    log.close()
    storage.full = True
    for step in range(3):
        log.info(f"while {step}")
        log.progress({"step": step})
        log.close()
        assert log.trouble == (
            "log and progress could not be written: [Errno 28] No space left on device"
        )
    assert len(lines(storage)) == 1
    storage.full = False
    log.progress({"step": 3})
    log.close()
    assert log.trouble is None
    assert [line.split("INFO ")[1].strip() for line in lines(storage)] == [
        "before",
        *(f"while {step}" for step in range(3)),
    ]
    assert metrics(storage) == [{"step": step} for step in range(4)]


@pytest.mark.parametrize("tell", [AttemptLog.info, AttemptLog.progress])
def test_nobody_waits_for_the_storage(
    storage: FailingStorage, log: AttemptLog, tell: Callable[..., None]
) -> None:
    storage.free.clear()
    tell(log, "told" if tell is AttemptLog.info else {"step": 1})
    assert storage.list(FOLDER) == []
    storage.free.set()
    log.close()
    assert storage.list(FOLDER) != []
