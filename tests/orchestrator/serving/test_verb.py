"""`manyworlds serve`: what it refuses, and the service in one process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.interrupts import hears_ctrl_c
from tests.orchestrator.command import manyworlds

ROOT = Path(__file__).parents[3]


def test_what_cannot_be_served_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNSET_TOKEN", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, told in (
            ([], "expected a run or an ensemble, found nothing"),
            ([str(tmp_path)], "expected a run or an ensemble, found neither"),
            ([str(run), "prot=1"], "prot"),
            ([str(run), "port=70000"], "port: expected 0 to 65535, found 70000"),
            ([str(run), "replicas=0"], "replicas: expected at least 1, found 0"),
            ([str(run), "token=secret"], "token: expected env:NAME"),
            ([str(run), "token=env:UNSET_TOKEN"], "expected the environment variable UNSET_TOKEN"),
            ([str(run), f"port={port}", "cluster=none"], f"port {port} of 127.0.0.1: expected it"),
        ):
            ended = manyworlds("serve", *words)
            assert ended.code == 2
            assert told in ended.err
            assert "secret" not in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_in_one_process_until_it_is_told_to_end(run: Path, number: int) -> None:
    words = [sys.executable, "-m", "orchestrator.cli", "serve", str(run)]
    words += ["cluster=none", "port=0", "token=env:TOKEN"]
    environment = {**os.environ, "TOKEN": "wanted\n", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_ctrl_c,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        assert "64 classes, 3 worlds" in lines[0]
        url = lines[1].split()[0]
        body = {"texts": ["thing1"], "k": 2}
        headers = {"authorization": "Bearer wanted"}
        assert httpx2.post(f"{url}/predict", json=body).status_code == 401
        found = httpx2.post(f"{url}/predict", json=body, headers=headers)
        assert len(found.json()["answers"][0]) == 2
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "stopped"
