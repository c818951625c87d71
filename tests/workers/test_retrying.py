"""What is tried again, and for how long: on the errors that Arrow raises against a server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Any

import pyarrow.fs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.faults import BAD_GATEWAY, SLOW_DOWN, FakeTime, always
from tests.workers.object_store import BUCKET, Fault, Judge, Proxy, error
from workers.errors import StorageError
from workers.storage import Retries
from workers.storage.filesystems import open_place
from workers.storage.retrying import is_transient


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


# What to try again


def provoke(proxy: Proxy, judge: Judge, operation: Callable[[Any], object]) -> OSError:
    remote = open_place(proxy.uri(), Retries()).remote
    assert remote is not None
    proxy.judge = judge
    with pytest.raises(OSError) as raised:
        operation(remote)
    return raised.value


def put(remote: Any) -> None:
    stream = remote.filesystem.open_output_stream(f"{BUCKET}/probe", compression=None)
    stream.write(b"data")
    stream.close()


def ask(remote: Any) -> None:
    remote.filesystem.get_file_info(f"{BUCKET}/probe")


def enumerate_files(remote: Any) -> None:
    remote.filesystem.get_file_info(pyarrow.fs.FileSelector(BUCKET))


def read(remote: Any) -> None:
    remote.filesystem.open_input_file(f"{BUCKET}/probe").read()


@pytest.mark.parametrize("operation", [put, ask, enumerate_files, read])
@pytest.mark.parametrize(
    "fault",
    [
        SLOW_DOWN,
        BAD_GATEWAY,
        error(429, "TooManyRequests"),
        error(500, "InternalError"),
        error(503, "ServiceUnavailable"),
        error(504, ""),
        "cut request",
        "cut response",
        "lose response",
    ],
)
def test_passing_troubles_of_s3_are_tried_again(
    s3: Proxy, fault: Fault, operation: Callable[[Any], object]
) -> None:
    (s3.folder / "probe").write_bytes(b"data")
    if operation in (ask, read) and fault == "cut response":
        # A response without a body cannot be cut.
        judge = always(fault, lambda request: request.method != "HEAD")
        operation = read
    else:
        judge = always(fault)
    assert is_transient(provoke(s3, judge, operation))


@pytest.mark.parametrize("operation", [put, ask, enumerate_files, read])
@pytest.mark.parametrize(
    "code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"]
)
def test_refusals_of_s3_are_not_tried_again(
    s3: Proxy, code: str, operation: Callable[[Any], object]
) -> None:
    assert not is_transient(provoke(s3, always(error(403, code)), operation))


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidArgument", "EntityTooLarge"])
def test_bad_requests_to_s3_are_not_tried_again(s3: Proxy, code: str) -> None:
    assert not is_transient(provoke(s3, always(error(400, code)), put))


def test_a_missing_bucket_is_not_looked_for_again(s3: Proxy) -> None:
    assert not is_transient(provoke(s3, always(error(404, "NoSuchBucket")), put))


def test_a_refused_connection_is_tried_again(s3: Proxy) -> None:
    s3.close()
    try:
        assert is_transient(provoke(s3, always(SLOW_DOWN), put))
    finally:
        s3.reopen()


def test_a_certificate_that_does_not_fit_is_no_passing_trouble() -> None:
    words = "AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: {}, as it says"
    assert not is_transient(OSError(words.format(60)))
    assert is_transient(OSError(words.format(7)))


@pytest.mark.parametrize(
    ("status", "passing"), [(503, True), (429, True), (403, False), (401, False)]
)
def test_gcs_is_classified_too(s3: Proxy, status: int, passing: bool) -> None:
    uri = f"gs://anonymous@{BUCKET}/run?endpoint_override=127.0.0.1:{s3.port}&scheme=http"
    remote = open_place(f"{uri}&retry_limit_seconds=1", Retries()).remote
    assert remote is not None
    s3.judge = always(error(status, "as asked"))
    with pytest.raises(OSError) as raised:
        remote.filesystem.get_file_info(f"{BUCKET}/probe")
    assert is_transient(raised.value) == passing


@pytest.mark.parametrize(
    ("trouble", "passing"),
    [
        (ConnectionResetError(104, "reset"), True),
        (TimeoutError(110, "timed out"), True),
        (PermissionError(13, "denied"), False),
        (FileNotFoundError(2, "missing"), False),
        (OSError(28, "No space left on device"), False),
        (OSError("words that nobody knows"), False),
        (ValueError("AWS Error SLOW_DOWN during PutObject operation"), False),
        (StorageError("AWS Error SLOW_DOWN during PutObject operation"), False),
    ],
)
def test_errors_of_other_kinds_are_classified(trouble: Exception, passing: bool) -> None:
    assert is_transient(trouble) == passing


# How it is tried again


class Server:
    """Fails with a passing trouble until a time, or for a number of calls."""

    def __init__(self, time: FakeTime, *, until: float) -> None:
        self._time, self._until, self.calls = time, until, 0

    def __call__(self) -> str:
        self.calls += 1
        if self._time.now < self._until:
            raise ConnectionRefusedError(111, "refused")
        return "done"


def test_what_works_is_done_once(time: FakeTime) -> None:
    server = Server(time, until=0)
    assert time.retries().run(server) == "done"
    assert (server.calls, time.sleeps) == (1, [])


@given(st.floats(0, 0.999), st.floats(1, 105))
def test_any_outage_within_the_budget_is_outlived(draw: float, outage: float) -> None:
    time = FakeTime()
    retries = Retries(clock=lambda: time.now, sleep=time.sleep, random=lambda: draw)
    assert retries.run(Server(time, until=outage)) == "done"
    assert outage <= time.now <= outage + 10
    longest = [min(10, 0.2 * 2**number) for number in range(len(time.sleeps))]
    assert all(most / 2 <= slept <= most for slept, most in zip(time.sleeps, longest, strict=True))


@given(st.floats(0, 0.999))
def test_a_longer_outage_is_an_error_when_the_budget_is_spent(draw: float) -> None:
    time = FakeTime()
    retries = Retries(clock=lambda: time.now, sleep=time.sleep, random=lambda: draw)
    with pytest.raises(ConnectionRefusedError):
        retries.run(Server(time, until=121))
    assert time.now == pytest.approx(120)


def test_a_slow_operation_is_tried_again_however_long_it_took(time: FakeTime) -> None:
    calls = count()

    def upload() -> str:
        time.now += 1_000
        if next(calls) == 0:
            raise ConnectionResetError(104, "reset")
        return "done"

    assert time.retries().run(upload) == "done"


def test_waits_differ_between_processes() -> None:
    assert len({Retries().random() for _ in range(10)}) == 10


def test_a_long_wait_is_explained_once(time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        time.retries().run(Server(time, until=1))
        assert not caplog.records
        time.retries().run(Server(time, until=60))
    assert len(caplog.records) == 1
    assert "refused" in caplog.messages[0]
