"""The commands of docker/, run as they stand; docker/README.md lists those that are not."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.cluster_utils import Cluster

from orchestrator import api
from tests.docker import commands, inside
from tests.docker.commands import surroundings
from tests.docker.files import DOCKER, blocks, document, image_environment, job_settings
from tests.orchestrator.builders import CLASSES, searches, write

SECRETS = {
    "STORAGE_KEY": "manyworlds",
    "STORAGE_SECRET": "loopback-secret-4711",
    "RAY_AUTH_TOKEN": "loopback-token-4711-4711",
}
RAYJOB = "kuberay/rayjob.yaml"
SMALL = 80 << 20
"""Bytes of the object store."""


def left_out() -> set[tuple[str, str]]:
    """Return the commands that the README says no test has run, by file."""
    rows = re.findall(
        r"^\| (\S+) \| `(.+)` \| \S.* \|$", (DOCKER / "README.md").read_text(), re.MULTILINE
    )
    return {(name, text.replace("\\|", "|")) for name, text in rows}


def run_here() -> set[tuple[str, str]]:
    """Return the commands that this file runs."""
    compose = {(commands.COMPOSE, shlex.join(words)) for words in commands.of_compose()}
    entrypoint = {(RAYJOB, document(RAYJOB)["spec"]["entrypoint"])}
    return compose | entrypoint | {("README.md", text) for text in commands.on_head()}


def test_every_command_is_run_or_the_readme_says_why_not() -> None:
    collected, run, left = commands.collected(), run_here(), left_out()
    assert len(run) == 10
    assert sorted(collected - run - left) == []
    assert sorted(left - collected) == []
    assert run & left == set()


def test_no_command_of_the_readme_keeps_the_next_one_waiting() -> None:
    texts = [line for block in blocks("sh") for line in block.splitlines()[:-1]]
    forwarding = [text for text in texts if "port-forward" in text]
    assert forwarding
    assert [text for text in forwarding if not text.endswith(" &")] == []


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """Hold a head and two workers that claim what the pods of the RayJob have."""
    types = commands.node_types(RAYJOB)
    head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": SMALL})
    try:
        for name in ("spot", "on-demand"):
            resources = types[name]["resources"]
            found.add_node(
                num_cpus=resources["CPU"],
                num_gpus=resources["GPU"],
                labels=types[name]["labels"],
                object_store_memory=SMALL,
                wait=False,
            )
        found.wait_for_nodes()
        yield found
    finally:
        found.shutdown()  # type: ignore[no-untyped-call]


def test_the_entrypoint_of_the_job_runs_on_workers_alone(nodes: Cluster, tmp_path: Path) -> None:
    settings = job_settings()
    settings["worlds"] = 2
    rows = write(tmp_path / "rows.parquet", searches(300))
    settings["data"] |= {"train": rows, "classes": CLASSES}
    settings["partition"]["buckets"] = 16
    small = {"features": {"dimension": 512}, "model": {"hidden": [8]}, "training": {"epochs": 1}}
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump({**settings, **small}))
    environment = surroundings(
        RUN=str(tmp_path / "run"), SETTINGS=str(path), RAY_ADDRESS=nodes.address
    )
    ended = subprocess.run(
        ["bash", "-c", document(RAYJOB)["spec"]["entrypoint"]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "run" / "ensembles" / "CURRENT").is_file()
    head: Any = nodes.head_node
    workers = {node.node_id[:8] for node in nodes.worker_nodes}
    attempts = [made for state in api.status(environment["RUN"]).states for made in state.attempts]
    assert len(attempts) == 2
    for made in attempts:
        assert made.cause == "done"
        assert any(node in str(made.node) for node in workers - {head.node_id[:8]})


def filled(value: Any) -> Any:
    """Return a part of the compose file with the variables of `SECRETS` put in."""
    if isinstance(value, dict):
        return {key: filled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SECRETS.get(found[1], ""), value)
    return value


def services() -> list[dict[str, Any]]:
    """Return the services of the compose file in the order in which they wait for each other."""
    found = []
    for name, service in filled(document("compose.yaml"))["services"].items():
        found.append(
            {
                "name": name,
                "command": [*service.get("entrypoint", []), *service["command"]],
                "check": service["healthcheck"]["test"][1:],
                "environment": service["environment"],
                "replicas": service.get("deploy", {}).get("replicas", 1),
            }
        )
    assert [service["name"] for service in found] == ["storage", "head", "worker"]
    return found


def clicks(path: Path) -> None:
    """Write what the README's commands begin with: queries for 64 products."""
    names = ["trainers", *(f"product {number}" for number in range(1, CLASSES))]
    words = ["red running shoes", *(f"thing{number}" for number in range(1, CLASSES))]
    rows = [f"{words[i]} number{n},{names[i]}" for n in range(8) for i in range(CLASSES)]
    path.write_text("\n".join(["query,product", *rows, ""]))


def test_the_compose_file_trains_on_its_storage(tmp_path: Path) -> None:
    storage, data = tmp_path / "storage", tmp_path / "data"
    (storage / "manyworlds").mkdir(parents=True)
    data.mkdir()
    clicks(data / "clicks.csv")
    made = services()
    plan = {
        "mounts": [[str(storage), "/srv"]],
        "folder": str(data),
        "services": made,
        "environment": made[1]["environment"],
        "commands": [shlex.split(text) for text in commands.on_head()],
    }
    nodes = {name: value for name, value in image_environment().items() if name != "HOME"}
    *_, (_, _, answers) = inside.run(plan, tmp_path, **nodes)
    assert (storage / "manyworlds/first/ensembles/CURRENT").is_file()
    assert len(re.findall(r"^ +\S", answers, re.MULTILINE)) >= 10, answers
