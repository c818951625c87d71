"""Commands in the files of docker/, read as the programs themselves would read them."""

from __future__ import annotations

import os
import re
import shlex
import sysconfig
from collections.abc import Sequence
from typing import Any

from ray.autoscaler._private.kuberay import autoscaling_config
from ray.scripts.scripts import start

from tests.docker.files import (
    KUBERAY,
    LAUNCHERS,
    ROOT,
    blocks,
    cluster,
    document,
    documents,
    instructions,
)

COMPOSE = "compose.yaml"
_ON_HEAD = "docker compose --file docker/compose.yaml exec head "


def surroundings(**more: str) -> dict[str, str]:
    """Return an environment in which programs of this environment run this checkout's code."""
    scripts = sysconfig.get_path("scripts")
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def read_by_ray(words: Sequence[str]) -> dict[str, Any]:
    """Return the options of a `ray start` as Ray reads them, which starts nothing.

    Raises:
        click.UsageError: an option is wrong.
    """
    assert list(words[:2]) == ["ray", "start"]
    return dict(start.make_context("start", list(words[2:])).params)


def ray_start(group: dict[str, Any], head: bool) -> list[str]:
    """Return the `ray start` that KubeRay makes of a group, as far as the file determines it."""
    given = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
    return ["ray", "start", *(["--head"] if head else ["--address=head:6379"]), *given, "--block"]


def groups(name: str) -> list[tuple[dict[str, Any], bool]]:
    """Return the groups of a KubeRay file, and whether each is the head's."""
    spec = cluster(name)
    return [(spec["headGroupSpec"], True), *((group, False) for group in spec["workerGroupSpecs"])]


def node_types(name: str) -> dict[str, dict[str, Any]]:
    """Return what Ray's autoscaler reads in the groups of a file."""
    resource = {"metadata": {"name": "manyworlds", "namespace": "default"}, "spec": cluster(name)}
    found = autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)
    types: dict[str, dict[str, Any]] = found["available_node_types"]
    return types


def in_launcher(name: str) -> list[str]:
    """Return all commands of a launcher's file, in the order of its lists."""
    found = document(name)
    return [line for key, lines in found.items() if key.endswith("commands") for line in lines]


def on_head() -> list[str]:
    """Return the commands that the README runs on the head of the compose file."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.removeprefix(_ON_HEAD) for line in lines if line.startswith(_ON_HEAD)]


def of_compose() -> list[list[str]]:
    """Return commands and health checks of the services."""
    found = []
    for service in document(COMPOSE)["services"].values():
        found.append([*service.get("entrypoint", []), *service["command"]])
        found.append(service["healthcheck"]["test"][1:])
    return found


def of_dockerfile() -> set[str]:
    """Return the programs that the image's build runs, those in Python that it holds apart."""
    texts = [found.text for found in instructions() if found.word == "RUN"]
    bare = [re.sub(r"--mount=\S+", "", text) for text in texts]
    parts = [part.split() for text in bare for part in text.split("&&")]
    return {words[0] for words in parts if words[0] != "python"}


def of_readme() -> set[str]:
    """Return the programs that the README calls."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    words = {shlex.split(line, comments=True)[0] for line in lines}
    inside = {"openssl"} if any("$(openssl" in line for line in lines) else set()
    return (words - {"export"}) | inside


def collected() -> set[tuple[str, str]]:
    """Return every command by file, as docker/README.md names it."""
    found = {(COMPOSE, shlex.join(words)) for words in of_compose()}
    found |= {("Dockerfile", program) for program in of_dockerfile()}
    found |= {("README.md", text) for text in [*of_readme(), *on_head()]}
    found |= {(name, line) for name in LAUNCHERS for line in in_launcher(name)}
    found |= {(name, "ray start") for name in KUBERAY}
    for name in KUBERAY:
        for made in documents(name):
            spec = made.get("spec", {})
            if "entrypoint" in spec:
                found.add((name, spec["entrypoint"]))
            imports = re.findall(r"import_path: (\S+)", spec.get("serveConfigV2", ""))
            found |= {(name, path) for path in imports}
    return found
