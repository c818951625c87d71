"""Runs as jobs of a cluster of this file's own, with its dashboard, for real."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from orchestrator import api
from orchestrator.config import overrides_of
from orchestrator.executors.jobs import RayJobs
from tests.interrupts import hears_ctrl_c
from tests.orchestrator.builders import run_config
from tests.orchestrator.command import manyworlds

ROOT = Path(__file__).parents[2]
WAITING = "waiting for a word"
GONE_ON = "gone on"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    port = free_port()
    head = {
        "num_cpus": 2,
        "num_gpus": 0,
        "object_store_memory": 80 << 20,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": port,
        # The one that takes jobs; its usual port is a fixed one.
        "dashboard_agent_listen_port": free_port(),
    }
    nodes = Cluster(initialize_head=True, head_node_args=head)
    yield f"http://127.0.0.1:{port}"
    shutdown: Callable[[], None] = nodes.shutdown
    shutdown()


@dataclass(frozen=True)
class Site:
    """A run that is to be, and how to get it onto the cluster."""

    words: list[str]
    run: str
    options: list[str]
    folder: Path

    def install(self, script: str) -> None:
        """Put a shell script in the place of the command on the cluster."""
        program = self.folder / "bin" / "manyworlds"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)


@pytest.fixture
def site(address: str, tmp_path: Path) -> Site:
    (tmp_path / "bin").mkdir()
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), "PATH": path}}
    (tmp_path / "env.yaml").write_text(yaml.safe_dump(environment))
    config = run_config(tmp_path, "worlds=1", "cluster.address=auto")
    options = ["--submit", address, "--runtime-env", str(tmp_path / "env.yaml")]
    return Site(["train", *overrides_of(config)], config.run, options, tmp_path)


@pytest.fixture
def installed(site: Site) -> Site:
    """Return a site with the package on its cluster."""
    site.install(f'exec {sys.executable} -m orchestrator.cli "$@"')
    return site


@pytest.fixture
def waiting(site: Site) -> Site:
    """Return a site where the command waits for a word, and ends badly without one."""
    os.mkfifo(site.folder / "word")
    site.install(f"echo {WAITING}; read word < {site.folder / 'word'} && echo $word")
    return site


def tell(site: Site) -> None:
    """Let the command that waits go on; returns once it does."""
    (site.folder / "word").write_text(f"{GONE_ON}\n")


def client(site: Site) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *site.words, *site.options]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, preexec_fn=hears_ctrl_c
    )


def read_until_waiting(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.strip() == WAITING:
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_a_run_is_followed_to_its_end_and_the_same_command_carries_on(installed: Site) -> None:
    first = manyworlds(*installed.words, *installed.options)
    assert first.code == 0, first.out + first.err
    assert "1 of 1 world done" in first.out
    name = first.out.split()[1]
    assert first.out.endswith(f"job {name} succeeded\n")
    trained = api.status(installed.run)
    assert trained.ensemble is not None
    second = manyworlds(*installed.words, *installed.options)
    assert second.code == 0, second.out + second.err
    assert second.out.startswith(f"job {name}-2 begins")
    assert "1 of 1 world done" in second.out
    assert api.status(installed.run).states == trained.states


def test_the_same_by_hand(installed: Site, address: str) -> None:
    command = [
        *[str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", address],
        *["--runtime-env", str(installed.folder / "env.yaml"), "--", "manyworlds"],
        *[*installed.words, "cluster.address=auto"],
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert api.status(installed.run).ensemble is not None


def test_a_client_that_leaves_comes_back_to_the_same_job(waiting: Site, address: str) -> None:
    first = client(waiting)
    name = read_until_waiting(first).split()[1]
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130, out + err
    assert f"job {name} goes on" in out
    assert "Traceback" not in err
    assert RayJobs(address).look(name).state == "RUNNING"
    (again,) = (line for line in out.splitlines() if line.startswith("  manyworlds train"))
    assert shlex.split(again)[1:] == [*waiting.words, *waiting.options]
    second = client(waiting)
    assert f"job {name} is at work already" in read_until_waiting(second)
    tell(waiting)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, out + err
    assert out.endswith(f"{GONE_ON}\njob {name} succeeded\n")


def test_a_job_that_fails_says_why(site: Site) -> None:
    site.install("echo expected rows, found none >&2; exit 2")
    ended = manyworlds(*site.words, *site.options)
    assert ended.code == 1
    assert "\nexpected rows, found none\n" in ended.out
    assert "failed: its command ended with exit code 2; see above" in ended.err


def test_a_cluster_without_the_package_says_so(site: Site) -> None:
    ended = manyworlds(*site.words, *site.options)
    assert ended.code == 1
    assert "expected the command manyworlds on the cluster, found none" in ended.err


def test_an_environment_that_ray_refuses_is_told(site: Site) -> None:
    (site.folder / "env.yaml").write_text("pip: 3\n")
    ended = manyworlds(*site.words, *site.options)
    assert ended.code == 2
    assert "expected a runtime environment that Ray takes, found:" in ended.err
