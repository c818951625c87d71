"""Put, then commit: what is there counts whole or not at all, and is checked when read."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.object_store import Proxy
from workers.errors import SchemaError, StorageError
from workers.storage import COMMIT, Checkpoint, FileEntry, RunPaths, Storage, from_json, to_json

FILES = {"a.bin": b"first", "b.bin": b"second", "c.bin": b"third"}
ELSEWHERE = "mock:///bucket/run"
"""A filesystem of Arrow's in memory: no rename, and no path that could be memory-mapped."""


@pytest.fixture(params=["local", "elsewhere", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        proxy: Proxy = request.getfixturevalue("s3")
        return Storage(proxy.uri(f"{tmp_path.name}/run"))
    return Storage(str(tmp_path / "run") if request.param == "local" else ELSEWHERE)


@pytest.fixture
def disk(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def write_commit(storage: Storage, folder: str, files: Any, schema: int = 1) -> None:
    storage.write_json(f"{folder}/{COMMIT}", {"files": files}, schema=schema)


def entry(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": sha256(data).hexdigest()}


def test_what_is_written_is_read(storage: Storage) -> None:
    written = storage.write_bytes("x/y/file.gz", b"not really gzip")
    assert storage.read_bytes("x/y/file.gz") == b"not really gzip"
    assert written == FileEntry(**entry(b"not really gzip"))
    assert storage.list("x") == ["y"]
    assert storage.exists("x/y/file.gz")


def test_a_second_write_takes_the_first_ones_place(storage: Storage) -> None:
    storage.write_bytes("file", b"a longer text")
    storage.write_bytes("file", b"short")
    assert storage.read_bytes("file") == b"short"


def test_nothing_is_there_at_first(storage: Storage) -> None:
    assert not storage.exists("file")
    assert storage.list() == []
    assert storage.list("folder") == []
    storage.delete("file")
    with pytest.raises(StorageError, match=r"run/file: expected a file, found none"):
        storage.read_bytes("file")


@pytest.mark.parametrize("failing", range(3))
def test_a_local_write_that_fails_leaves_the_old_file_alone(disk: Storage, failing: int) -> None:
    disk.write_bytes("file", b"old")

    def write(path: Path) -> None:
        for number in range(3):
            if number == failing:
                raise ZeroDivisionError
            path.write_bytes(b"new" * number)

    with pytest.raises(ZeroDivisionError):
        disk.write_file("file", write)
    assert disk.read_bytes("file") == b"old"
    assert [path.name for path in Path(disk.uri).iterdir()] == ["file"]


@given(st.dictionaries(st.sampled_from("abcdef"), st.binary(max_size=40)))
def test_committed_files_are_read_back(files: dict[str, bytes]) -> None:
    storage = Storage(ELSEWHERE)
    manifest = storage.commit("folder", files)
    assert storage.committed("folder") == storage.verify("folder") == manifest
    assert {name: storage.read_committed("folder", name) for name in manifest.files} == files


@pytest.mark.parametrize("failing", FILES)
def test_a_crash_before_the_commit_leaves_nothing_that_counts(
    storage: Storage, failing: str
) -> None:
    def crash(path: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        storage.commit("folder", {**FILES, failing: crash})
    assert storage.committed("folder") is None
    assert storage.commit("folder", FILES) == storage.committed("folder")


@pytest.mark.parametrize("failing", FILES)
def test_a_crash_while_committing_anew_leaves_nothing_that_counts(
    storage: Storage, failing: str
) -> None:
    def crash(path: Path) -> None:
        raise ZeroDivisionError

    storage.commit("folder", FILES)
    with pytest.raises(ZeroDivisionError):
        storage.commit("folder", {**FILES, failing: crash})
    assert storage.committed("folder") is None


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_a_commit_that_is_cut_short_does_not_count(storage: Storage, left: int) -> None:
    storage.commit("folder", FILES)
    data = storage.read_bytes(f"folder/{COMMIT}")
    storage.write_bytes(f"folder/{COMMIT}", data[:left])
    assert storage.committed("folder") is None
    with pytest.raises(StorageError, match="expected JSON"):
        storage.manifest("folder")


@pytest.mark.parametrize("data", [b"", b"secon", b"second and more"])
def test_a_file_of_another_size_does_not_count(storage: Storage, data: bytes) -> None:
    storage.commit("folder", FILES)
    storage.write_bytes("folder/b.bin", data)
    assert storage.committed("folder") is None
    with pytest.raises(StorageError, match=rf"b\.bin: expected 6 bytes, found {len(data)} bytes"):
        storage.manifest("folder")


def test_a_missing_file_does_not_count(storage: Storage) -> None:
    storage.commit("folder", FILES)
    storage.delete("folder/b.bin")
    assert storage.committed("folder") is None
    with pytest.raises(StorageError, match=r"b\.bin: expected 6 bytes, found no file"):
        storage.manifest("folder")


def test_altered_bytes_are_found_when_read(storage: Storage) -> None:
    storage.commit("folder", FILES)
    storage.write_bytes("folder/b.bin", b"sec0nd")
    assert storage.read_committed("folder", "a.bin") == b"first"
    with pytest.raises(StorageError, match=r"b\.bin: expected 6 bytes with sha256"):
        storage.read_committed("folder", "b.bin")
    with pytest.raises(StorageError, match=r"b\.bin: expected 6 bytes with sha256"):
        storage.verify("folder")
    assert storage.verify("folder", ["a.bin", "c.bin"])


def test_a_file_that_is_not_listed_is_refused(storage: Storage) -> None:
    storage.commit("folder", FILES)
    storage.write_bytes("folder/d.bin", b"slipped in")
    with pytest.raises(StorageError, match=r"expected 'd\.bin' in it, found a\.bin, b\.bin"):
        storage.read_committed("folder", "d.bin")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/../../b", "/etc/passwd", "a\\b", "a//b", "a/", "a\0b"]
)
def test_names_cannot_leave_the_folder(disk: Storage, name: str) -> None:
    write_commit(disk, "folder", {name: entry(b"x")})
    assert disk.committed("folder") is None
    with pytest.raises(StorageError, match="expected the name of a file inside the folder"):
        disk.manifest("folder")
    with pytest.raises(StorageError, match="expected the name of a file inside the folder"):
        disk.write_bytes(f"folder/{name}", b"x")
    assert disk.list() == ["folder"]
    assert disk.list("folder") == [COMMIT]


@pytest.mark.parametrize(
    "files",
    [
        None,
        ["a.bin"],
        {"a.bin": 5},
        {"a.bin": {"size": 1}},
        {"a.bin": {"size": "1", "sha256": "0" * 64}},
        {"a.bin": {"size": True, "sha256": "0" * 64}},
        {"a.bin": {"size": -1, "sha256": "0" * 64}},
        {"a.bin": {"size": 1, "sha256": "0" * 63}},
        {"a.bin": {"size": 1, "sha256": ["0"] * 64}},
    ],
)
def test_a_commit_with_odd_contents_does_not_count(disk: Storage, files: Any) -> None:
    disk.write_bytes("folder/a.bin", b"x")
    write_commit(disk, "folder", files)
    assert disk.committed("folder") is None
    with pytest.raises(StorageError, match="expected files with size and sha256"):
        disk.manifest("folder")


def test_a_commit_of_another_schema_is_refused_loudly(storage: Storage) -> None:
    write_commit(storage, "folder", {}, schema=99)
    with pytest.raises(SchemaError, match="COMMIT: expected schema 1, found 99; another version"):
        storage.committed("folder")


@given(
    st.dictionaries(
        st.text().filter(lambda key: key not in ("schema", "sha256")),
        st.integers() | st.text() | st.none(),
    )
)
def test_json_comes_back(values: dict[str, Any]) -> None:
    assert from_json(to_json(values, schema=7), "here", schema=7) == values


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\xfa", b"[" * 100_000, b'{"schema": 1'])
def test_corrupt_json_is_refused(data: bytes) -> None:
    with pytest.raises(StorageError, match=r"^here: expected JSON, found a file that is cut short"):
        from_json(data, "here")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_holds_finite_numbers(number: str) -> None:
    with pytest.raises(StorageError, match="here: expected"):
        from_json(b'{"schema": 1, "a": %s}' % number.encode(), "here")


def test_json_vouches_for_itself() -> None:
    data = to_json({"step": 12, "cause": "error"})
    for old, new in ((b"12", b"13"), (b"error", b"errov"), (b'"step"', b'"stop"')):
        with pytest.raises(StorageError, match="here: expected content with sha256"):
            from_json(data.replace(old, new), "here")
    without = re.sub(rb'.*"sha256".*\n', b"", data)
    assert without != data
    assert from_json(without, "here") == {"step": 12, "cause": "error"}


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with (tmp_path / "state.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StorageError, match=r"state\.json: expected at most 67,108,864 bytes"):
        storage.read_json("state.json")
    with pytest.raises(StorageError, match="expected at most 10 bytes, found more"):
        storage.read_bytes("state.json", at_most=10)


@pytest.mark.parametrize("data", [b"[]", b"1", b"null", b'"text"'])
def test_json_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(StorageError, match="expected a JSON object"):
        from_json(data, "here")


@pytest.mark.parametrize("found", [None, 2, "1", True, [1]])
def test_json_of_another_schema_is_refused(found: Any) -> None:
    with pytest.raises(SchemaError, match="here: expected schema 1, found"):
        from_json(json.dumps({"schema": found}).encode(), "here")


def test_appending_makes_numbered_files(storage: Storage) -> None:
    paths = [storage.append("metrics", data, ".jsonl") for data in (b"1", b"2", b"3")]
    assert paths == ["metrics/0001.jsonl", "metrics/0002.jsonl", "metrics/0003.jsonl"]
    assert storage.read_bytes(paths[1]) == b"2"


def test_appending_goes_on_after_9999(disk: Storage) -> None:
    for name in ("0002.jsonl", "9999.jsonl", "10000.jsonl", "notes.txt"):
        disk.write_bytes(f"metrics/{name}", b"")
    assert disk.append("metrics", b"", ".jsonl") == "metrics/10001.jsonl"
    assert disk.numbered("metrics")[-2:] == ["10000.jsonl", "10001.jsonl"]


def test_deleting_a_folder_takes_all_of_it(storage: Storage) -> None:
    storage.commit("folder/inner", FILES)
    storage.write_bytes("folder/other", b"stays")
    storage.delete("folder/inner")
    assert storage.list("folder") == ["other"]
    assert storage.committed("folder/inner") is None


def test_a_local_file_is_opened_where_it_is(disk: Storage) -> None:
    disk.write_bytes("folder/file", b"data")
    assert disk.local("folder/file") == Path(disk.uri, "folder/file")


def test_a_file_elsewhere_is_fetched_once_for_each_version() -> None:
    storage = Storage(ELSEWHERE)
    storage.write_bytes("folder/file", b"data")
    first = storage.local("folder/file")
    assert first.read_bytes() == b"data"
    assert storage.local("folder/file") == first
    storage.write_bytes("folder/file", b"other data")
    assert storage.local("folder/file").read_bytes() == b"other data"


def test_a_missing_file_has_no_local_path(storage: Storage) -> None:
    storage.write_bytes("folder/file", b"data")
    for path in ("folder", "nothing"):
        with pytest.raises(StorageError, match="expected a file, found none"):
            storage.local(path)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_copies_are_equal(storage: Storage, disk: Storage, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    written = disk.write_bytes("source/file", data)
    assert storage.copy_from(disk, "source/file", "target/copy") == written
    assert storage.read_bytes("target/copy") == data


def test_copied_files_can_be_sealed(storage: Storage, disk: Storage) -> None:
    disk.write_bytes("weights", b"data")
    storage.seal("folder", {"copy": storage.copy_from(disk, "weights", "folder/copy")})
    assert storage.read_committed("folder", "copy") == b"data"


def test_copying_what_is_not_there_names_the_source(disk: Storage) -> None:
    with pytest.raises(StorageError, match="run/nothing: expected a file, found none"):
        Storage(ELSEWHERE).copy_from(disk, "nothing", "copy")


def test_relative_paths_and_file_uris_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Storage("some/../run")
    assert relative.uri == Storage(f"file://{tmp_path}/run/").uri == str(tmp_path / "run")
    monkeypatch.chdir("/")
    relative.write_bytes("file", b"data")
    assert (tmp_path / "run/file").read_bytes() == b"data"


@pytest.mark.parametrize("uri", ["", "gopher://host/run", "mock://"])
def test_a_uri_that_cannot_work_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="expected a"):
        Storage(uri)


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(StorageError, match="expected a URI without credentials") as refused:
        Storage("s3://key:secret@bucket/run")
    assert "secret" not in str(refused.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_a_path_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = Storage(str(tmp_path / "file"))
    with pytest.raises(StorageError, match="expected storage that can be read and written"):
        storage.write_bytes("run/file", b"data")


def test_a_uris_query_stays_at_its_end() -> None:
    storage = Storage("s3://bucket/run?endpoint_override=127.0.0.1:9&scheme=http")
    assert storage.where("a/b") == "s3://bucket/run/a/b?endpoint_override=127.0.0.1:9&scheme=http"


@pytest.fixture
def paths(disk: Storage) -> RunPaths:
    return RunPaths(disk)


def test_names_are_those_of_the_layout(paths: RunPaths) -> None:
    assert paths.state(7) == "worlds/007/state.json"
    assert paths.attempt_name(3, "x7f2") == "03-x7f2"
    assert (
        paths.checkpoint(7, "03-x7f2", 12_000) == "worlds/007/attempts/03-x7f2/checkpoints/00012000"
    )
    assert paths.final(1_000, "03-x7f2") == "worlds/1000/attempts/03-x7f2/final"


def test_attempts_are_listed_oldest_first(paths: RunPaths) -> None:
    for name in ("100-a", "02-b", "11-c", "notes", "x-1"):
        paths.storage.write_bytes(f"{paths.attempt(0, name)}/log.txt", b"")
    assert paths.attempts(0) == ["02-b", "11-c", "100-a"]
    assert paths.attempts(1) == []


def test_the_furthest_committed_checkpoint_of_all_attempts_is_found(paths: RunPaths) -> None:
    assert paths.newest_checkpoint(0) is None
    for attempt, step in [("01-a", 100), ("01-a", 300), ("02-b", 200), ("02-b", 300)]:
        paths.storage.commit(paths.checkpoint(0, attempt, step), {"state.json": b"{}"})
    paths.storage.write_bytes(f"{paths.checkpoint(0, '02-b', 400)}/state.json", b"{}")
    assert paths.newest_checkpoint(0) == Checkpoint(paths.checkpoint(0, "02-b", 300), 300)
    assert [item.step for item in paths.checkpoints(0)] == [300, 300, 200, 100]
    assert paths.newest_checkpoint(1) is None


def test_the_earliest_finished_attempt_counts(paths: RunPaths) -> None:
    assert paths.finished(0) is None
    paths.storage.write_bytes(f"{paths.final(0, '01-a')}/model.safetensors", b"no commit")
    for attempt in ("03-c", "02-b"):
        paths.storage.commit(paths.final(0, attempt), {"model.safetensors": b"weights"})
    finished = paths.finished(0)
    assert finished is not None
    assert finished[0] == "02-b"


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_a_long_file_gives_signs_of_life_on_its_way(tmp_path: Path, kind: str) -> None:
    def write(path: Path) -> None:
        path.write_bytes(bytes(3 << 20))

    storage = Storage(str(tmp_path) if kind == "disk" else "mock:///bucket/run")
    beats: list[None] = []
    storage.write_file("long", write, lambda: beats.append(None))
    assert len(beats) >= 3
