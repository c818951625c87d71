"""Copies of shards on this machine: fetched once, bounded, never half, never under a reader."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workers.builders import bits, world_config, write_queries
from workers.errors import StorageError
from workers.shards import ShardSet, tables_in_order
from workers.storage import Storage
from workers.storage.formats import FileEntry
from workers.storage.node_cache import NodeCache
from workers.world import World


class Fetched:
    """Storage that counts what is copied, cuts it short, or does something meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.cut = 0
        self.meanwhile: Callable[[], None] | None = None
        copy_from = Storage.copy_from

        def counted(target: Storage, source: Storage, path: str, name: str) -> FileEntry:
            self.names.append(path)
            if self.meanwhile:
                meanwhile, self.meanwhile = self.meanwhile, None
                meanwhile()
            if self.cut:
                return target.write_bytes(name, source.read_bytes(path)[: -self.cut])
            return copy_from(target, source, path, name)

        monkeypatch.setattr(Storage, "copy_from", counted)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    return Fetched(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Storage:
    source = Storage(str(tmp_path / "source"))
    for name in "abc":
        source.write_bytes(name, name.encode() * 100)
    return source


def cache_of(tmp_path: Path, limit: int = 1000) -> NodeCache:
    return NodeCache(limit, str(tmp_path / "cache"))


def copies_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def read(cache: NodeCache, source: Storage, name: str) -> bytes | None:
    with cache.open(source, name, f"key{name}", 100) or open(os.devnull, "rb") as file:
        data: bytes = file.read()
    return data or None


def test_a_file_is_fetched_once_for_all_caches_of_a_folder(
    tmp_path: Path, source: Storage, fetched: Fetched
) -> None:
    for _ in range(3):
        assert read(cache_of(tmp_path), source, "a") == b"a" * 100
    assert fetched.names == ["a"]


def test_readers_at_the_same_time_fetch_once(
    tmp_path: Path, source: Storage, fetched: Fetched
) -> None:
    found: list[bytes | None] = []

    def run() -> None:
        found.append(read(cache_of(tmp_path), source, "a"))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"a" * 100] * 8
    assert fetched.names == ["a"]


def test_what_was_used_least_recently_goes_first(
    tmp_path: Path, source: Storage, fetched: Fetched
) -> None:
    cache = cache_of(tmp_path, limit=250)
    for moment, name in enumerate("ab"):
        read(cache, source, name)
        os.utime(tmp_path / "cache" / f"key{name}", (moment, moment))
    # Using it makes it the newest.
    read(cache, source, "a")
    read(cache, source, "c")
    assert copies_in(tmp_path / "cache") == ["keya", "keyc"]
    assert fetched.names == ["a", "b", "c"]


def test_a_file_that_is_being_read_is_not_taken_away(tmp_path: Path, source: Storage) -> None:
    cache = cache_of(tmp_path, limit=100)
    file = cache.open(source, "a", "keya", 100)
    assert file is not None
    with file:
        assert read(cache, source, "b") == b"b" * 100
        assert copies_in(tmp_path / "cache") == ["keyb"]
        assert file.read() == b"a" * 100


def test_a_download_that_was_cut_does_not_count(
    tmp_path: Path, source: Storage, fetched: Fetched
) -> None:
    fetched.cut = 1
    assert read(cache_of(tmp_path), source, "a") is None
    assert copies_in(tmp_path / "cache") == []
    fetched.cut = 0
    assert read(cache_of(tmp_path), source, "a") == b"a" * 100


def test_a_copy_that_was_cut_later_is_fetched_again(
    tmp_path: Path, source: Storage, fetched: Fetched
) -> None:
    read(cache_of(tmp_path), source, "a")
    (tmp_path / "cache" / "keya").write_bytes(b"a" * 99)
    assert read(cache_of(tmp_path), source, "a") == b"a" * 100
    assert fetched.names == ["a", "a"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, source: Storage) -> None:
    folder = tmp_path / "cache"
    cache = cache_of(tmp_path, limit=150)
    # In the middle of a download: the lock file says how much was to come.
    (folder / ".keyb.1234.tmp").write_bytes(b"b" * 60)
    (folder / "keyb.lock").write_bytes(b"\0" * 100)
    assert read(cache, source, "a") == b"a" * 100
    assert sorted(path.name for path in folder.iterdir() if path.stat().st_size) == ["keya"]


def test_a_download_under_way_counts(tmp_path: Path, source: Storage, fetched: Fetched) -> None:
    cache = cache_of(tmp_path, limit=150)
    inside: list[bytes | None] = []
    fetched.meanwhile = lambda: inside.append(read(cache_of(tmp_path, limit=150), source, "b"))
    assert read(cache, source, "a") == b"a" * 100
    assert inside == [None]


@pytest.mark.parametrize("limit", [0, 99])
def test_a_file_that_is_too_large_is_not_copied(
    tmp_path: Path, source: Storage, fetched: Fetched, limit: int
) -> None:
    assert read(cache_of(tmp_path, limit), source, "a") is None
    assert fetched.names == []


def test_a_full_disk_and_a_missing_source_leave_nothing(
    tmp_path: Path, source: Storage, monkeypatch: pytest.MonkeyPatch, fetched: Fetched
) -> None:
    def full(*arguments: object) -> FileEntry:
        raise StorageError("no space left on device")

    cache = cache_of(tmp_path)
    assert cache.open(source, "absent", "key", 100) is None
    monkeypatch.setattr(Storage, "copy_from", full)
    assert read(cache, source, "a") is None
    assert copies_in(tmp_path / "cache") == []


def test_a_dropped_copy_is_gone(tmp_path: Path, source: Storage) -> None:
    cache = cache_of(tmp_path)
    read(cache, source, "a")
    cache.drop("keya")
    cache.drop("keyb")
    assert copies_in(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"expected a folder for copies .*; set runtime\.cache"):
        NodeCache(1, str(tmp_path / "file" / "cache"))
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(
        StorageError, match=r"expected a folder of this user .*; set runtime\.cache"
    ):
        NodeCache(1, str(tmp_path / "link"))


def rows_of(shards: ShardSet) -> list[int]:
    data = world_config("-").data
    tables = tables_in_order(shards, data, rows=64, more_columns=["row"])
    return [row for table in tables for row in table["row"].to_pylist()]


def test_shards_are_read_from_their_copies(tmp_path: Path) -> None:
    folder = write_queries(tmp_path / "data")
    cache = cache_of(tmp_path, 10**6)
    shards = ShardSet(folder, cache=cache)
    assert rows_of(shards) == list(range(300))
    assert len(copies_in(tmp_path / "cache")) == 2
    # The copies are what is read: without the files, a set that knows them goes on.
    again = ShardSet(folder, cache=cache)
    for name in ("a", "b"):
        (tmp_path / "data" / f"{name}.parquet").unlink()
    assert rows_of(again) == list(range(300))


def test_only_shards_that_fit_together_are_copied(tmp_path: Path) -> None:
    folder = write_queries(tmp_path / "data")
    sizes = ShardSet(folder).sizes
    shards = ShardSet(folder, cache=cache_of(tmp_path, sum(sizes) - 1))
    for _ in range(2):
        assert rows_of(shards) == list(range(300))
    assert len(copies_in(tmp_path / "cache")) == 1


def test_a_copy_that_went_bad_is_dropped_for_the_shard_itself(tmp_path: Path) -> None:
    folder = write_queries(tmp_path / "data")
    rows_of(ShardSet(folder, cache=cache_of(tmp_path, 10**6)))
    for name in copies_in(tmp_path / "cache"):
        path = tmp_path / "cache" / name
        path.write_bytes(b"\xff" * 1000 + path.read_bytes()[1000:])
    assert rows_of(ShardSet(folder, cache=cache_of(tmp_path, 10**6))) == list(range(300))
    assert copies_in(tmp_path / "cache") == []


def test_a_shard_is_opened_once(tmp_path: Path) -> None:
    folder = write_queries(tmp_path / "data")
    world = World(world_config(folder), 0)
    taken = False

    def take_away() -> bool:
        # Both shards were opened for the first epoch; they stay readable for the second.
        nonlocal taken
        if world.step == 33 and not taken:
            for name in ("a", "b"):
                (tmp_path / "data" / f"{name}.parquet").unlink()
            taken = True
        return False

    world.train(stop=take_away)
    world.close()
    undisturbed = World(world_config(write_queries(tmp_path / "again")), 0)
    undisturbed.train()
    undisturbed.close()
    assert taken
    assert bits(world.parameters) == bits(undisturbed.parameters)
