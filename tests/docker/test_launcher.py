"""The files of Ray's cluster launcher, read as `ray up` reads them."""

from __future__ import annotations

import copy
import re
import shlex
from typing import Any

import pytest
from jsonschema import ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.config import load
from tests.docker import commands
from tests.docker.files import LAUNCHERS, VERSION, blocks, document, image_environment, pins

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


def node_configs(name: str) -> dict[str, dict[str, Any]]:
    types = document(name)["available_node_types"]
    return {kind: made["node_config"] for kind, made in types.items()}


def test_spot_machines_are_asked_for_as_each_cloud_has_it() -> None:
    aws = {
        kind: made.get("InstanceMarketOptions")
        for kind, made in node_configs("launcher/aws.yaml").items()
    }
    assert aws == {"head": None, "spot": {"MarketType": "spot"}, "on-demand": None}
    gcp = {
        kind: made.get("scheduling", {}) for kind, made in node_configs("launcher/gcp.yaml").items()
    }
    assert gcp["spot"] == {
        "provisioningModel": "SPOT",
        "preemptible": True,
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
        # A machine that is only stopped costs its disk still.
        "instanceTerminationAction": "DELETE",
    }
    assert gcp["on-demand"] == {"onHostMaintenance": "TERMINATE"}
    assert gcp["head"] == {}


def test_the_head_on_aws_may_give_workers_their_role() -> None:
    # The role that Ray makes for a head without one may not: no worker would ever start.
    profiles = {
        kind: made["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        for kind, made in node_configs("launcher/aws.yaml").items()
    }
    assert profiles == {"head": "manyworlds-head", "spot": "manyworlds", "on-demand": "manyworlds"}


def test_machines_on_gcp_have_the_driver_of_the_image_and_docker() -> None:
    found = node_configs("launcher/gcp.yaml")
    families = {
        kind: made["disks"][0]["initializeParams"]["sourceImage"].rpartition("/")[2]
        for kind, made in found.items()
    }
    # CUDA 13 works from driver 580 on.
    assert pins()["cuda-toolkit"].startswith("13.")
    assert families["spot"] == families["on-demand"] == "common-cu129-ubuntu-2204-nvidia-580"
    assert families["head"] == "ubuntu-2204-lts"
    first, *_ = document("launcher/gcp.yaml")["initialization_commands"]
    assert "install --yes docker.io" in first


def test_the_readme_s_training_fits_the_machines() -> None:
    (line,) = [text for block in blocks("sh") for text in block.splitlines() if "ray exec" in text]
    name, command = shlex.split(line)[2:]
    verb, *words = shlex.split(command)[1:]
    assert verb == "train"
    settings = load(None, words).cluster
    spot = prepared(document(name.removeprefix("docker/")))["available_node_types"]["spot"]
    assert settings.cpus_per_world == spot["resources"]["CPU"]
    assert settings.gpus_per_world == spot["resources"]["GPU"]
    assert settings.max_parallel == spot["max_workers"]
    assert settings.pending_timeout >= 1800


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
