"""A process that dies at any single write of a checkpoint or of its weights loses nothing more."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.workers.builders import stopped_at, unhurried, world_config, write_queries
from workers.attempt import run_attempt
from workers.config import WorldConfig
from workers.storage import COMMIT, RunPaths, Storage

FIRST, SECOND = "01-aaaa", "02-bbbb"
STEPS = 33
# Three checkpoints and the final folder with their commits; two deletes, in two parts each.
WRITES = 3 * 4 + 4 + 2 * 2


class Crash(BaseException):
    """Stands for the end of the process."""


class Dying:
    """Counts writes to checkpoints and weights, and lets the process die ahead of one of them.

    On a local disk a file is there once `os.replace` gave it its name. Whoever is dead
    writes nothing more, removes nothing, and leaves its temporary files behind.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes = 0
        self.committed: set[int] = set()
        """Steps of the checkpoints that count."""
        self._last: int | None = None
        self._dead = False
        self._lock = threading.Lock()
        replace, unlink, delete = os.replace, Path.unlink, Storage.delete

        def dying_replace(source: Path, target: Path) -> None:
            self._write(str(target))
            replace(source, target)
            if target.name == COMMIT and target.parent.name != "final":
                self.committed.add(int(target.parent.name))

        def dying_unlink(path: Path, missing_ok: bool = False) -> None:
            if not self._dead:
                unlink(path, missing_ok=missing_ok)

        def dying_delete(storage: Storage, path: str) -> None:
            self._write(path)
            self.committed.discard(int(path.split("/")[-1]))
            delete(storage, f"{path}/{COMMIT}")
            self._write(path)
            delete(storage, path)

        monkeypatch.setattr(os, "replace", dying_replace)
        monkeypatch.setattr(Path, "unlink", dying_unlink)
        monkeypatch.setattr(Storage, "delete", dying_delete)

    def live(self, writes: int | None = None) -> None:
        """Live from here on, until that many writes are done; None: for ever."""
        self.writes, self._last, self._dead = 0, writes, False

    def _write(self, path: str) -> None:
        with self._lock:
            counts = "/checkpoints/" in path or "/final/" in path
            self._dead = self._dead or (counts and self.writes == self._last)
            if self._dead:
                raise Crash
            self.writes += counts


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> WorldConfig:
    return world_config(write_queries(tmp_path_factory.mktemp("queries")), epochs=1)


@pytest.fixture(scope="module")
def undisturbed(config: WorldConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the sha256 of the weights of world 0, trained in one go."""
    receipt = run_attempt(str(tmp_path_factory.mktemp("run")), config, 0, FIRST)
    return str(receipt["model_sha256"])


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Dying:
    return Dying(monkeypatch)


def committed(storage: Storage) -> list[int]:
    """Return the steps of the checkpoints that open, each read to its end."""
    found = list(RunPaths(storage).checkpoints(0))
    for checkpoint in found:
        storage.verify(checkpoint.folder)
    return [checkpoint.step for checkpoint in found]


def test_the_writes_are_all_counted(tmp_path: Path, config: WorldConfig, dying: Dying) -> None:
    run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried())
    assert dying.writes == WRITES


@pytest.mark.parametrize("writes", range(WRITES))
def test_a_crash_ahead_of_any_write_loses_nothing_that_was_committed(
    tmp_path: Path, config: WorldConfig, undisturbed: str, dying: Dying, writes: int
) -> None:
    storage = Storage(str(tmp_path))
    dying.live(writes)
    with pytest.raises(Crash):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried())
    assert set(committed(storage)) == dying.committed
    assert RunPaths(storage).finished(0) is None
    left = max(dying.committed, default=None)
    dying.live()
    receipt = run_attempt(str(tmp_path), config, 0, SECOND, stop=unhurried())
    resumed = receipt["resumed_from"]
    assert (int(resumed.split("/")[-1]) if resumed else None) == left
    assert receipt["model_sha256"] == undisturbed
    assert RunPaths(storage).finished(0) == (SECOND, storage.verify(f"{attempt(SECOND)}/final"))


@pytest.mark.parametrize("writes", range(4 + 4 + 2))
def test_a_crash_ahead_of_any_write_while_stopping(
    tmp_path: Path, config: WorldConfig, undisturbed: str, dying: Dying, writes: int
) -> None:
    dying.live(writes)
    with pytest.raises(Crash):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried(stopped_at(13)))
    assert set(committed(Storage(str(tmp_path)))) == dying.committed
    # The next one dies too, in the first checkpoint that it writes.
    dying.live(2)
    with pytest.raises(Crash):
        run_attempt(str(tmp_path), config, 0, SECOND, stop=unhurried(stopped_at(12)))
    assert set(committed(Storage(str(tmp_path)))) == dying.committed
    dying.live()
    receipt = run_attempt(str(tmp_path), config, 0, "03-cccc")
    assert receipt["model_sha256"] == undisturbed


def attempt(name: str) -> str:
    return f"worlds/000/attempts/{name}"
