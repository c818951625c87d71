"""An ensemble on Ray Serve, while a replica dies and another ensemble takes over."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ray import serve as ray_serve

from orchestrator.executors import serve
from orchestrator.serving.settings import ServingConfig
from tests.cluster.machines import joined
from tests.orchestrator.builders import named_classes, run_config, trained, write
from workers.errors import RunError

ROOT = Path(__file__).parents[2]
CLIENTS = 4
BODY = {"texts": ["thing1", "thing7"], "k": 3}


class Asking:
    """Clients that ask again and again, and what they got."""

    def __init__(self, url: str) -> None:
        self.found: Counter[str] = Counter()
        self.ensembles: set[str] = set()
        self._url = url
        self._over = threading.Event()
        self._more = threading.Condition()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, condition: Any) -> None:
        """Return when a condition holds, looked at after every answer."""
        with self._more:
            assert self._more.wait_for(condition, timeout=180)

    def wait_for_answers(self, count: int) -> None:
        """Return after so many more answers."""
        wanted = self.found.total() + count
        self.wait_for(lambda: self.found.total() >= wanted)

    def _ask(self) -> None:
        with httpx2.Client(timeout=120) as client:
            while not self._over.is_set():
                try:
                    answer = client.post(f"{self._url}/predict", json=BODY)
                    told, ensemble = str(answer.status_code), answer.json().get("ensemble", "")
                except (httpx2.HTTPError, ValueError) as error:
                    told, ensemble = repr(error), ""
                with self._more:
                    self.found[told] += 1
                    self.ensembles.add(ensemble)
                    self._more.notify_all()


class Other:
    """What somebody else serves."""

    def __call__(self, request: object) -> str:
        return "other"


def replicas() -> list[int]:
    """Return the processes of replicas that descend from this one."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}

    def ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    named = [int(pid) for pid, _, *args in rows if args and "ray::ServeReplica" in args[0]]
    return [pid for pid in named if ours(pid)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_replicas_that_cannot_start_say_why(tmp_path: Path) -> None:
    config = ServingConfig(ensemble=str(tmp_path / "nothing"), port=free_port())
    with pytest.raises(RunError, match="found neither"), serve.serving(config, "local"):
        pass


def test_a_cluster_serves_once_at_a_time_and_again_where_it_listens(tmp_path: Path) -> None:
    run = str(trained(run_config(tmp_path, "worlds=1")))
    config = ServingConfig(ensemble=run, port=free_port(), body_seconds=0.3)
    elsewhere = ServingConfig(ensemble=run, port=free_port())
    with joined(num_cpus=2) as nodes:
        for _ in range(2):
            with serve.serving(config, nodes.address) as url:
                assert httpx2.get(f"{url}/about").json()["worlds"] == 1
                for second in (config, elsewhere):
                    with pytest.raises(RunError, match="serves no ensemble yet, found one"):
                        serve.serving(second, nodes.address).__enter__()
                assert httpx2.get(f"{url}/about").status_code == 200
                # Its proxies heed its settings too.
                with socket.create_connection(("127.0.0.1", config.port)) as slow:
                    slow.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{")
                    told = slow.makefile("rb").read()
                assert told.startswith(b"HTTP/1.1 408") and b"within 0.3 s" in told
        with pytest.raises(RunError, match=f"listens on port {config.port} of 127.0.0.1 already"):
            serve.serving(elsewhere, nodes.address).__enter__()
        theirs: Any = ray_serve.deployment(Other)
        ray_serve.run(theirs.bind(), name="other")
        with pytest.raises(RunError, match="Prefix / is being used by application"):
            serve.serving(config, nodes.address).__enter__()
        assert httpx2.get(f"http://127.0.0.1:{config.port}/").status_code == 200


def test_a_service_that_is_told_to_end_leaves_in_good_order(tmp_path: Path) -> None:
    run = str(trained(run_config(tmp_path, "worlds=1")))
    words = [sys.executable, "-m", "orchestrator.cli", "serve", run, "cluster=local"]
    process = subprocess.Popen(
        [*words, f"port={free_port()}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(line.startswith("Ctrl-C") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_more_requests_than_may_wait_are_refused(tmp_path: Path) -> None:
    run = str(trained(run_config(tmp_path, "worlds=1")))
    config = ServingConfig(ensemble=run, port=free_port(), waiting=2, batch=1)
    found: queue.SimpleQueue[httpx2.Response] = queue.SimpleQueue()
    with serve.serving(config, "local") as url:

        def ask() -> None:
            found.put(httpx2.post(f"{url}/predict", json=BODY, timeout=180))

        (replica,) = replicas()
        os.kill(replica, signal.SIGSTOP)
        asking = [threading.Thread(target=ask) for _ in range(12)]
        try:
            for thread in asking:
                thread.start()
            refused = found.get(timeout=180)
        finally:
            os.kill(replica, signal.SIGCONT)
            for thread in asking:
                thread.join()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "expected fewer requests" in refused.json()["error"]
    others = {found.get().status_code for _ in asking[1:]}
    assert others <= {200, 429} and 200 in others


def test_no_request_is_lost_to_a_swap_or_a_killed_replica(tmp_path: Path) -> None:
    names = write(tmp_path / "names.parquet", named_classes())
    run = trained(run_config(tmp_path, f"data.class_names={names}"))
    other = trained(run_config(tmp_path / "other", "seed=5"))
    (old, new) = ((one / "ensembles" / "CURRENT").read_text().strip() for one in (run, other))
    config = ServingConfig(ensemble=str(run), port=free_port(), replicas=2, refresh_seconds=0.2)
    with serve.serving(config.validate(), "local") as url, Asking(url) as asking:
        asking.wait_for_answers(20)
        victim = replicas()[0]
        os.kill(victim, signal.SIGKILL)
        asking.wait_for_answers(100)
        assert victim not in replicas()
        assert asking.ensembles == {old}
        shutil.copytree(other / "ensembles" / new, run / "ensembles" / new)
        # In one step, as a merge does it.
        (run / "ensembles" / "NEXT").write_text(new)
        (run / "ensembles" / "NEXT").rename(run / "ensembles" / "CURRENT")
        asking.wait_for(lambda: new in asking.ensembles)
        asking.wait_for_answers(20)
    assert set(asking.found) == {"200"}, asking.found
    assert asking.ensembles == {old, new}
