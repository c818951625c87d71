"""An S3 server that throttles, fails, cuts connections and goes away."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from chaos.looking import Look, check_whole, hashes
from chaos.training import WORLDS, Source, Training
from chaos.waiting import wait_for
from tests.cluster.machines import Machines
from tests.workers.object_store import Fault, Proxy, Request, error

SEED = 31
GONE = 20.0
"""Seconds."""
FAULTS: dict[str, Fault] = {
    "503 SlowDown": error(503, "SlowDown"),
    "503": error(503, "ServiceUnavailable"),
    "429": error(429, "TooManyRequests"),
    "500": error(500, "InternalError"),
    "cut while it was sent": "cut request",
    "cut while it was answered": "cut response",
    "answer lost": "lose response",
}


class Weather:
    """Gives a share of the requests faults, at seeded random, and counts them."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._random = random.Random(SEED)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __call__(self, request: Request) -> Fault | None:
        with self._lock:
            if self._random.random() >= self._share:
                return None
            name = self._random.choice(list(FAULTS))
            self.counts[name] += 1
            return FAULTS[name]


@pytest.fixture
def s3(store: Proxy) -> Iterator[Proxy]:
    yield store
    store.reset()


@pytest.mark.case(
    fault="S3: 503, 429, 500, connections cut in mid-upload and mid-answer, answers lost, at"
    " random in 8 % of the requests; the server gone for 20 s",
    wanted="retried; no half-written object is ever taken for whole; same bits",
)
def test_a_run_on_a_store_that_fails_now_and_then(
    machines: Machines, source: Source, s3: Proxy, record_property: Any
) -> None:
    config = source.config(s3.uri("failing"), "runtime.report_steps=20")
    look = Look(s3.folder / "failing")
    s3.judge = weather = Weather(0.08)
    with Training(config) as training:
        wait_for("a world to train", lambda: any(look.running(w, step=60) for w in range(WORLDS)))
        s3.close()
        time.sleep(GONE)
        s3.reopen()
        summary = training.summary()
    requests = len(s3.requests)
    s3.reset()
    assert summary.done == tuple(range(WORLDS)), summary
    assert hashes(config.run, summary.done) == source.hashes
    record_property("requests", requests)
    record_property("faults", sum(weather.counts.values()))
    record_property("cut uploads and requests", weather.counts["cut while it was sent"])
    record_property("attempts", [len(look.tries(world)) for world in range(WORLDS)])
    record_property("commits, all whole", check_whole(config.run))
    record_property("same bits", True)
    assert set(weather.counts) == set(FAULTS)


@pytest.mark.case(
    fault="S3 that fails for 20 % of the requests, with the shards on it",
    wanted="retried; same bits",
)
def test_shards_on_a_store_that_fails_now_and_then(
    machines: Machines, source: Source, s3: Proxy, tmp_path: Path, record_property: Any
) -> None:
    copytree(source.data, s3.folder / "shards")
    config = source.config(
        tmp_path / "run",
        f"data.train={s3.uri('shards')}",
        f"runtime.cache_folder={tmp_path / 'cache'}",
    )
    s3.judge = weather = Weather(0.2)
    with Training(config) as training:
        summary = training.summary()
    record_property("requests", len(s3.requests))
    record_property("faults", sum(weather.counts.values()))
    s3.reset()
    assert summary.done == tuple(range(WORLDS)), summary
    assert hashes(config.run, summary.done) == source.hashes
    record_property("same bits", True)
