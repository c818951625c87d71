"""A cluster that loses a machine and gets another, on this one: submit, finish, serve.

    python -m examples.cluster_demo [FOLDER]

Starts a Ray cluster of a head and two machines with a faked GPU each, submits a run of six worlds
as a job, takes a machine away while it trains, adds another, waits for the end, serves the ensemble
on the same cluster and asks it. Takes a few minutes on 2 cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from examples.product_search.catalogue import Catalogue
from examples.product_search.dataset import write
from orchestrator import api
from orchestrator.views import WorldView
from workers.errors import ManyworldsError

WORLDS = 6
CLASSES, ROWS = 5_000, 60_000
SMALL = 80 << 20
"""Bytes of a machine's object store."""
_LOOK = 1.0
"""Seconds between two looks at the run."""
_MANYWORLDS = (sys.executable, "-m", "orchestrator.cli")


def main(arguments: list[str]) -> int:
    """Run the demo in the folder that is named; return the exit status."""
    folder = Path(arguments[0] if arguments else "runs/cluster_demo").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    say(f"1/6 making {ROWS:,} searches for {CLASSES:,} products")
    write(folder / "data", Catalogue(CLASSES), train=ROWS, test=100)
    # Where the job looks for the command.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    dashboard, port = free_port(), free_port()
    say("2/6 starting a head and two machines with a GPU each (faked)")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "num_gpus": 0,
            "object_store_memory": SMALL,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": dashboard,
            "dashboard_agent_listen_port": free_port(),
        },
    )
    try:
        machines = [added(cluster), added(cluster)]
        run = str(folder / "run")
        job = submitted(folder, run, f"http://127.0.0.1:{dashboard}")
        wait_for(run, job, lambda views: sum(bool(view.step) for view in views) >= 2)
        show(run)
        say("4/6 a machine is gone, with the world on it")
        cluster.remove_node(machines.pop(0), allow_graceful=False)
        wait_for(run, job, lambda views: count(views, "running") < 2)
        show(run)
        say("    and another one comes")
        machines.append(added(cluster))
        wait_for(run, job, lambda views: count(views, "running") == 2 or count(views, "done") > 2)
        show(run)
        if job.wait():
            return 1
        say("5/6 how the attempts ended")
        run_command(*_MANYWORLDS, "status", run, "--attempts")
        say("6/6 serving the ensemble on the same cluster, and asking it")
        asked(run, cluster.address, port)
        return 0
    finally:
        stop: Callable[[], None] = cluster.shutdown
        stop()


def submitted(folder: Path, run: str, address: str) -> subprocess.Popen[bytes]:
    """Submit the run as a job, and return the command that follows it."""
    data = folder / "data"
    words = [
        "train",
        f"run={run}",
        f"data.train={data / 'train'}",
        f"data.classes={CLASSES}",
        "data.text=[query]",
        f"worlds={WORLDS}",
        "partition.buckets=512",
        "features.dimension=32768",
        "model.hidden=[64]",
        "training.epochs=12",
        "runtime.device=cpu",
        "runtime.checkpoint_steps=20",
        "cluster.gpus_per_world=1",
    ]
    say(f"3/6 manyworlds {' '.join(words[:2])} ... --submit {address}")
    return subprocess.Popen([*_MANYWORLDS, *words, "--submit", address], stdout=subprocess.DEVNULL)


def asked(run: str, address: str, port: int) -> None:
    """Serve the ensemble, ask for two things, and end the service."""
    words = [*_MANYWORLDS, "serve", run, f"cluster={address}", f"port={port}"]
    service = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    for line in service.stdout:
        say(f"    {line.rstrip()}")
        if line.startswith("Ctrl-C"):
            break
    url = f"http://127.0.0.1:{port}"
    searches = pq.read_table(Path(run).parent / "data" / "test").slice(0, 3).to_pylist()
    for search in searches:
        (answers,) = posted(f"{url}/predict", {"texts": [search["query"]], "k": 5})["answers"]
        ids = [answer["id"] for answer in answers]
        say(f"    {search['query']!r}: products {', '.join(map(str, ids))};"
            f" {search['labels']} was clicked")  # fmt: skip
    asked_for = {"text": searches[0]["query"], "class_id": searches[0]["labels"]}
    votes = posted(f"{url}/explain", asked_for)["votes"]
    ranks = ", ".join(str(vote["rank"]) for vote in votes)
    say(f"    {searches[0]['labels']} for {searches[0]['query']!r}: its bucket's rank among 512 in"
        f" each of {len(votes)} worlds: {ranks}")  # fmt: skip
    service.send_signal(signal.SIGTERM)
    service.wait()


def posted(url: str, body: dict[str, Any]) -> Any:
    """Return the JSON that a request with JSON is answered with."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_for(
    run: str, job: subprocess.Popen[bytes], holds: Callable[[Sequence[WorldView]], bool]
) -> None:
    """Return when something holds for the worlds of a run, or its job has ended well.

    Raises:
        SystemExit: the job failed; what it said is on the screen.
    """
    while job.poll() is None:
        # Until the job has begun, there is no run.
        with contextlib.suppress(ManyworldsError):
            if holds(api.status(run).views):
                return
        time.sleep(_LOOK)
    if job.returncode:
        raise SystemExit(1)


def count(views: Sequence[WorldView], state: str) -> int:
    """Return how many worlds are in a state."""
    return sum(view.state == state for view in views)


def show(run: str) -> None:
    """Print the state of every world on a line."""
    views = api.status(run).views
    say("    " + ", ".join(f"{view.world} {_told(view)}" for view in views))


def added(cluster: Cluster) -> Any:
    """Return a new machine of a cluster, with a faked GPU."""
    return cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=SMALL)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def run_command(*words: str) -> None:
    """Run a command, and print what it says, indented."""
    ended = subprocess.run(words, capture_output=True, text=True)
    for line in (ended.stdout + ended.stderr).splitlines():
        say(f"    {line}")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def _told(view: WorldView) -> str:
    return f"{view.state} {view.step}/{view.steps}" if view.step and view.steps else view.state


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
