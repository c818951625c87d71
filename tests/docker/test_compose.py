"""The compose file: its structure. Its commands run in test_commands.py."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.docker.commands import read_by_ray
from tests.docker.files import DOCKER, ROOT, VERSION, document, image_environment, instructions

SERVICES: dict[str, dict[str, Any]] = document("compose.yaml")["services"]
NODES = ("head", "worker")
# Of the Compose specification, as far as they are of use here.
FIELDS = {
    "build",
    "command",
    "cpus",
    "depends_on",
    "deploy",
    "entrypoint",
    "environment",
    "healthcheck",
    "image",
    "init",
    "mem_limit",
    "ports",
    "pull_policy",
    "shm_size",
    "stop_grace_period",
    "volumes",
}
HEALTH = {"interval", "start_interval", "start_period", "test", "timeout"}


def unknown(service: dict[str, Any]) -> set[str]:
    return set(service) - FIELDS | set(service["healthcheck"]) - HEALTH


def seconds(duration: str) -> int:
    (found,) = re.findall(r"^(\d+)([sm])$", duration)
    return int(found[0]) * {"s": 1, "m": 60}[found[1]]


def test_there_are_a_storage_a_head_and_two_workers() -> None:
    whole = document("compose.yaml")
    assert {key for key in whole if not key.startswith("x-")} == {"name", "services", "volumes"}
    assert set(SERVICES) == {"storage", "head", "worker"}
    assert SERVICES["worker"]["deploy"] == {"replicas": 2}


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_fields_that_compose_knows(name: str) -> None:
    assert unknown(SERVICES[name]) == set()
    assert unknown({**SERVICES[name], "shm-size": "1gb"}) == {"shm-size"}


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_services_watched(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert re.match(r"\d+\.\d+\.\d+", tag)
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_services_wait_for_what_they_need() -> None:
    healthy = {"condition": "service_healthy"}
    assert SERVICES["head"]["depends_on"] == {"storage": healthy}
    assert SERVICES["worker"]["depends_on"] == {"head": healthy}


@pytest.mark.parametrize("name", NODES)
def test_nodes_are_the_image_for_cpus_with_room_for_objects(name: str) -> None:
    node = SERVICES[name]
    assert node["image"] == f"manyworlds:{VERSION}-cpu"
    # Without a number Ray takes 30 % of the memory, and a folder on disk where that is more.
    objects = read_by_ray(node["command"])["object_store_memory"]
    assert node["shm_size"] == "1gb"
    assert 0 < objects < 1 << 30
    drain = float(image_environment()["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert seconds(node["stop_grace_period"]) >= drain + 15


def test_the_image_is_built_once() -> None:
    # Two services that build one tag at the same time are an error: "already exists".
    (build,) = [service["build"] for service in SERVICES.values() if "build" in service]
    assert SERVICES["worker"]["pull_policy"] == "never"
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    stages = {found.stage for found in instructions()}
    assert build["target"] in stages
    arguments = {found.text.split("=")[0] for found in instructions() if found.word == "ARG"}
    assert build["args"].keys() <= arguments


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    secret = re.compile(r"KEY|SECRET|TOKEN")
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if secret.search(name):
                assert re.fullmatch(r'"?(\$\{\w+(:\?[^}]+)?\},?)+"?', value), name
    assert SERVICES["head"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["head"]["ports"])
