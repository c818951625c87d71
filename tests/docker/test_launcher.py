"""The files of Ray's cluster launcher, read as `ray up` reads them."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from jsonschema import ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.docker import commands
from tests.docker.files import LAUNCHERS, VERSION, document, image_environment

each_file = pytest.mark.parametrize("name", LAUNCHERS)


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Return what `ray up` makes of a file before it asks the cloud for anything."""
    found: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(found)
    return found


@each_file
def test_ray_takes_it(name: str) -> None:
    found = prepared(document(name))
    assert found["docker"]["image"] == f"example.com/manyworlds:{VERSION}-cuda"
    # Nothing of Ray's defaults is left in it that would install another Ray.
    assert found["setup_commands"] == []
    assert "ray-wheels" not in str(found)


@pytest.mark.parametrize(
    "path", ["max_worker", "available_node_types/spot/priorty", "docker/runoptions", "auth/user"]
)
@each_file
def test_a_misspelt_field_is_refused(name: str, path: str) -> None:
    broken = document(name)
    *parents, last = path.split("/")
    inner = broken
    for key in parents:
        inner = inner[key]
    inner[last] = 1
    with pytest.raises(ValidationError, match=last):
        prepared(broken)


@each_file
def test_the_head_takes_no_work_and_workers_are_spot_machines_first(name: str) -> None:
    found = prepared(document(name))
    types = found["available_node_types"]
    head, spot, other = types[found["head_node_type"]], types["spot"], types["on-demand"]
    assert (head["resources"], head["max_workers"]) == ({"CPU": 0}, 0)
    assert [made["labels"]["ray.io/market-type"] for made in (head, spot, other)] == [
        "on-demand",
        "spot",
        "on-demand",
    ]
    assert spot["priority"] > other["priority"]
    assert spot["resources"] == other["resources"]
    assert spot["resources"]["GPU"] == 1
    assert found["max_workers"] == spot["max_workers"] + other["max_workers"]
    for made in (spot, other):
        assert "--gpus=all" in made["docker"]["worker_run_options"]


def test_spot_machines_are_asked_for_as_each_cloud_has_it() -> None:
    aws = document("launcher/aws.yaml")["available_node_types"]
    assert {
        name: made["node_config"].get("InstanceMarketOptions") for name, made in aws.items()
    } == {"head": None, "spot": {"MarketType": "spot"}, "on-demand": None}
    gcp = document("launcher/gcp.yaml")["available_node_types"]
    asked = {name: made["node_config"].get("scheduling", []) for name, made in gcp.items()}
    assert {"preemptible": True} in asked["spot"]
    assert {"preemptible": True} not in [*asked["head"], *asked["on-demand"]]


@each_file
def test_ray_reads_what_its_nodes_start_with(name: str) -> None:
    found = document(name)
    (head,) = [text for text in found["head_start_ray_commands"] if "ray start" in text]
    (worker,) = [text for text in found["worker_start_ray_commands"] if "ray start" in text]
    read = commands.read_by_ray(head.split())
    assert (read["head"], read["num_cpus"], read["port"]) == (True, 0, 6379)
    assert read["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert commands.read_by_ray(worker.split())["address"] == "$RAY_HEAD_IP:6379"


@each_file
def test_no_secret_is_in_it(name: str) -> None:
    found = document(name)
    home = image_environment()["HOME"]
    assert found["file_mounts"] == {f"{home}/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in found["docker"]["run_options"]
    assert not re.search(r"AKIA|PRIVATE KEY|gcp_credentials", str(found))
