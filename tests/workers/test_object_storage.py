"""Storage on a server that throttles, fails, hangs up or is gone: lasting, never half."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workers.faults import DENIED, SLOW_DOWN, FakeTime, always, first, from_number
from tests.workers.object_store import SECRET, Fault, Judge, Proxy, Request, error
from workers.errors import StorageError, StorageFull
from workers.storage import COMMIT, Storage

REQUEST = 4 << 20
"""Bytes that one request reads at most."""
FILES = {"a.bin": b"first", "b.bin": b"second"}


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def storage(s3: Proxy, time: FakeTime, tmp_path: Path) -> Storage:
    return Storage(s3.uri(tmp_path.name), retries=time.retries())


@pytest.fixture
def stored(s3: Proxy, tmp_path: Path) -> Path:
    """Return where the server keeps the files of `storage`."""
    folder = s3.folder / tmp_path.name
    folder.mkdir()
    return folder


def part(request: Request) -> bool:
    return request.method == "PUT" and "partNumber=" in request.path


def completion(request: Request) -> bool:
    return request.method == "POST" and "uploadId=" in request.path


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def writing(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


# What a storage makes of it

OPERATIONS: dict[str, Callable[[Storage], object]] = {
    "exists": lambda storage: storage.exists("there/a.bin"),
    "list": lambda storage: storage.list("there"),
    "read": lambda storage: storage.read_bytes("there/a.bin"),
    "write": lambda storage: storage.write_bytes("new", b"text"),
    "write_json": lambda storage: storage.write_json("new.json", {"a": 1}),
    "append": lambda storage: storage.append("metrics", b"line", ".jsonl"),
    "write_file": lambda storage: storage.write_file("new", writing(b"1")),
    "commit": lambda storage: storage.commit("new", FILES),
    "verify": lambda storage: storage.verify("there"),
    "committed": lambda storage: storage.committed("there"),
    "read_committed": lambda storage: storage.read_committed("there", "b.bin"),
    "copy": lambda storage: storage.copy_from(storage, "there/a.bin", "copy"),
    "local": lambda storage: storage.local("there/a.bin").read_bytes(),
    "delete": lambda storage: storage.delete("there"),
}


@pytest.mark.parametrize("fault", [SLOW_DOWN, "cut request", "lose response"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_outlives_passing_troubles(
    s3: Proxy, storage: Storage, tmp_path: Path, time: FakeTime, name: str, fault: Fault
) -> None:
    def run(prefix: str, judge: Judge) -> tuple[object, object]:
        used = Storage(s3.uri(f"{tmp_path.name}/{prefix}"), retries=time.retries())
        used.commit("there", FILES)
        s3.judge = judge
        result = OPERATIONS[name](used)
        s3.reset()
        return result, {path: used.list(path) for path in used.list()}

    wanted = run("calm", lambda request: None)
    # An upload asks three times by itself.
    assert run("stormy", first(4, fault)) == wanted
    assert time.sleeps


def test_a_server_that_is_gone_for_twenty_seconds_is_waited_for(
    s3: Proxy, storage: Storage, time: FakeTime
) -> None:
    s3.close()
    time.events = [(20.0, s3.reopen)]
    storage.write_bytes("state.json", b"text")
    assert storage.read_bytes("state.json") == b"text"
    assert 20 <= time.now < 35


def test_a_server_that_stays_away_is_an_error_that_says_so(
    s3: Proxy, storage: Storage, time: FakeTime
) -> None:
    s3.close()
    try:
        with pytest.raises(StorageError, match=r"state\.json: expected storage that can be"):
            storage.write_bytes("state.json", b"text")
    finally:
        s3.reopen()
    assert time.now == pytest.approx(120)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refusal_is_an_error_at_once(
    s3: Proxy, storage: Storage, time: FakeTime, name: str
) -> None:
    storage.commit("there", FILES)
    s3.judge = always(DENIED)
    with pytest.raises(StorageError, match="ACCESS_DENIED"):
        if OPERATIONS[name](storage) is None:
            storage.manifest("there")
    assert time.sleeps == []


def test_a_missing_bucket_is_an_error_at_once(s3: Proxy, time: FakeTime) -> None:
    storage = Storage("s3://nobody-made-this/run", retries=time.retries())
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        storage.write_bytes("file", b"text")
    assert time.sleeps == []


@pytest.mark.parametrize("fault", ["cut response", "lose response", SLOW_DOWN])
def test_a_read_that_breaks_goes_on_where_it_was(
    s3: Proxy, storage: Storage, stored: Path, fault: Fault
) -> None:
    data = pattern(2 * REQUEST + 1)
    (stored / "large").write_bytes(data)
    s3.judge = first(3, fault, lambda request: request.method == "GET" and request.offset > 0)
    assert storage.read_bytes("large") == data
    offsets = [request.offset for request in s3.requests if request.method == "GET"]
    assert offsets == [0, REQUEST, REQUEST, REQUEST, REQUEST, 2 * REQUEST]


def test_a_file_that_is_replaced_while_a_broken_read_waits_is_an_error(
    s3: Proxy, storage: Storage, stored: Path, time: FakeTime
) -> None:
    (stored / "large").write_bytes(pattern(REQUEST + 9))
    s3.judge = first(1, "cut response", lambda request: request.offset > 0)
    time.events = [(0.0, lambda: os.truncate(stored / "large", REQUEST + 5))]
    with pytest.raises(StorageError, match="expected a file that stays as it is"):
        storage.read_bytes("large")


@pytest.mark.parametrize("size", [5, 500])
def test_a_small_file_that_is_replaced_while_read_is_read_whole(
    s3: Proxy, storage: Storage, stored: Path, size: int
) -> None:
    storage.write_bytes("state.json", b"x" * 50)

    def replace(request: Request) -> None:
        if request.method == "GET" and len(s3.requests) == 2:
            (stored / "state.json").write_bytes(b"y" * size)

    s3.requests.clear()
    s3.judge = replace
    assert storage.read_bytes("state.json") == b"y" * size


@pytest.mark.parametrize("which", [part, completion])
@pytest.mark.parametrize("fault", ["cut request", "lose response", SLOW_DOWN])
def test_an_upload_that_breaks_starts_anew(
    s3: Proxy, storage: Storage, time: FakeTime, fault: Fault, which: Callable[[Request], bool]
) -> None:
    data = pattern(1_000)
    # The parts are tried three times each before the whole is.
    s3.judge = first(6, fault, which)
    entry = storage.write_file("large", writing(data))
    assert entry.size == len(data)
    assert storage.read_bytes("large") == data
    assert time.sleeps


@pytest.mark.parametrize("which", [part, completion])
def test_an_upload_that_fails_for_good_publishes_nothing(
    s3: Proxy, storage: Storage, time: FakeTime, which: Callable[[Request], bool]
) -> None:
    s3.judge = always(DENIED, which)
    with pytest.raises(StorageError, match="ACCESS_DENIED"):
        storage.write_file("large", writing(b"text"))
    assert not storage.exists("large")


def test_a_copy_whose_source_fails_for_good_publishes_nothing(s3: Proxy, storage: Storage) -> None:
    storage.write_bytes("source", pattern(REQUEST + 9))
    s3.judge = always(DENIED, lambda request: request.offset > 0)
    with pytest.raises(StorageError, match="source: expected storage that can be read"):
        storage.copy_from(storage, "source", "copy")
    assert not storage.exists("copy")
    assert storage.exists("source")


def test_a_copy_starts_anew_from_its_source(s3: Proxy, storage: Storage, time: FakeTime) -> None:
    data = pattern(1_000)
    storage.write_bytes("source", data)
    s3.judge = first(3, "cut request", completion)
    storage.copy_from(storage, "source", "copy")
    assert storage.read_bytes("copy") == data
    assert time.sleeps


def test_a_stored_file_that_is_too_short_is_written_again(
    s3: Proxy, storage: Storage, stored: Path
) -> None:
    cuts = iter([500])

    def cut(request: Request) -> None:
        if request.method == "HEAD" and (stored / "large").exists():
            for size in cuts:
                os.truncate(stored / "large", size)

    s3.judge = cut
    storage.write_file("large", writing(pattern(1_000)))
    assert next(cuts, None) is None
    assert storage.read_bytes("large") == pattern(1_000)


def test_a_small_file_is_one_request(s3: Proxy, storage: Storage) -> None:
    s3.requests.clear()
    storage.write_json("state.json", {"a": 1})
    assert [request.method for request in s3.requests] == ["PUT"]


def requests_of(s3: Proxy, operation: Callable[[], object]) -> int:
    s3.reset()
    operation()
    return len(s3.requests)


def test_a_crash_at_any_request_of_a_commit_leaves_the_old_or_nothing(
    s3: Proxy, storage: Storage
) -> None:
    files: dict[str, Any] = {
        "model": writing(pattern(1_000)),
        "state": b"text",
    }
    total = requests_of(s3, lambda: storage.commit("calm", files))
    for last in range(total):
        s3.judge = from_number(last, DENIED)
        with pytest.raises(StorageError):
            storage.commit(f"crashed-{last}", files)
        s3.reset()
        assert storage.committed(f"crashed-{last}") is None
        assert storage.commit(f"crashed-{last}", files) == storage.verify(f"crashed-{last}")


def test_a_crash_at_any_request_of_a_single_file_leaves_the_old_or_the_new(
    s3: Proxy, storage: Storage
) -> None:
    old, new = b"old" * 100, b"newer" * 100
    faults: list[Fault] = ["cut request", "lose response", DENIED]
    for fault in faults:
        storage.write_bytes("state.json", old)
        s3.judge = always(fault)
        with pytest.raises(StorageError):
            storage.write_bytes("state.json", new)
        s3.reset()
        assert storage.read_bytes("state.json") in (old, new)


def test_what_arrow_leaves_for_an_emptied_folder_does_not_matter(
    s3: Proxy, storage: Storage, stored: Path
) -> None:
    for _ in range(2):
        storage.commit("checkpoints/00000100", FILES)
        assert storage.list("checkpoints") == ["00000100"]
        storage.delete("checkpoints/00000100")
        assert storage.list("checkpoints") == []
        assert storage.committed("checkpoints/00000100") is None
        storage.write_bytes("driver.json", b"text")
        storage.delete("driver.json")
    assert not [
        path for path in stored.parent.rglob("*") if path.is_file() and stored in path.parents
    ]


def test_a_folder_without_its_last_file_can_be_written_again(storage: Storage) -> None:
    storage.write_bytes("a/b/c", b"1")
    storage.write_bytes("a/other", b"2")
    storage.delete("a/b/c")
    storage.write_bytes("a/b/c", b"3")
    assert storage.read_bytes("a/b/c") == b"3"
    assert storage.list("a") == ["b", "other"]


# Credentials


@pytest.fixture
def echoing(s3: Proxy) -> Proxy:
    """Return a server that repeats the credentials in its errors."""
    s3.judge = always(error(403, "AccessDenied", f"no such secret: {SECRET}"))
    return s3


def test_no_error_repeats_credentials(echoing: Proxy, storage: Storage) -> None:
    with pytest.raises(StorageError, match="<AWS_SECRET_ACCESS_KEY>") as raised:
        storage.write_bytes("file", b"text")
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_no_log_repeats_credentials(
    s3: Proxy, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    s3.judge = always(error(503, "SlowDown", f"too much of {SECRET}"))
    with caplog.at_level(logging.DEBUG), pytest.raises(StorageError):
        storage.write_bytes("file", b"text")
    assert "<AWS_SECRET_ACCESS_KEY>" in caplog.text
    assert SECRET not in caplog.text


def test_wrong_credentials_are_an_error_at_once(
    s3: Proxy, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-one-that-fits")
    storage = Storage(s3.uri(), retries=time.retries())
    with pytest.raises(StorageError, match="credentials") as raised:
        storage.write_bytes("file", b"text")
    assert "not-the-one-that-fits" not in "".join(traceback.format_exception(raised.value))
    assert time.sleeps == []


def test_no_file_holds_credentials(s3: Proxy, storage: Storage, stored: Path) -> None:
    storage.commit("folder", FILES)
    storage.write_json("state.json", {"uri": storage.uri})
    written = [path.read_bytes() for path in stored.rglob("*") if path.is_file()]
    assert len(written) == len(FILES) + 2
    assert not [data for data in written if SECRET.encode() in data]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/run?secret_key=hidden-one&scheme=http",
        "s3://bucket/run?session_token=hidden-one",
        "s3://bucket/run?endpoint_override=user:hidden-one@127.0.0.1:9",
        "abfs://account:hidden-one@container/run",
    ],
)
def test_a_uri_with_credentials_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(StorageError, match="expected a URI without credentials") as raised:
        Storage(uri)
    assert "hidden-one" not in "".join(traceback.format_exception(raised.value))


def test_an_endpoint_may_be_part_of_the_uri(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    uri = f"{s3.uri(tmp_path.name)}?endpoint_override=127.0.0.1:{s3.port}&scheme=http"
    storage = Storage(uri)
    storage.write_bytes("file", b"text")
    assert storage.read_bytes("file") == b"text"
    assert COMMIT not in storage.list()


def test_a_full_disk_of_this_machine_is_told_apart_from_the_servers(
    storage: Storage, s3: Proxy
) -> None:
    def write(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageFull, match=r"manyworlds-.*expected room on the disk") as raised:
        storage.write_file("file", write)
    assert "s3://" not in str(raised.value)
    assert not storage.exists("file")
