"""The Kubernetes files: their structure, and what KubeRay, Ray and this package read in them."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from orchestrator.config import RunConfig, load
from orchestrator.serving.settings import ServingConfig
from tests.docker import commands, files
from tests.docker.files import (
    DOCKER,
    KUBERAY,
    ROOT,
    VERSION,
    cluster,
    document,
    documents,
    image_environment,
    pins,
)
from tests.docker.kuberay_types import problems

SPOT = "ray.io/market-type"
QUEUE = "kueue.x-k8s.io/queue-name"
HEADS = ("raycluster", "rayservice")
MACHINES = yaml.safe_load((ROOT / "conf/machines.yaml").read_text())
each_file = pytest.mark.parametrize("name", KUBERAY)


def pods(name: str) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group, _ in commands.groups(name)]


def containers(name: str) -> list[dict[str, Any]]:
    return [container for pod in pods(name) for container in pod["containers"]]


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from leaves(item, (*path, str(key)))
    else:
        yield path, value


@each_file
def test_every_field_is_one_of_its_type(name: str) -> None:
    found = documents(name)
    assert [problem for made in found for problem in problems(made)] == []
    assert found[-1]["kind"].lower() == Path(name).stem


@pytest.mark.parametrize(
    ("path", "wrong", "said"),
    [
        ("spec/entryPoint", "x", "RayJobSpec has no such field"),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParam", {}, "HeadGroupSpec has no such field"),
        ("spec/rayClusterSpec/autoscalerOptions/version", "v3", "expected one of v1, v2"),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0, "expected a string"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/maxReplica", 3, "WorkerGroupSpec has no such"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/minReplicas", "0", "expected int"),
        (
            "spec/rayClusterSpec/workerGroupSpecs/0/template/spec/nodeSelectors",
            {},
            "PodSpec has no",
        ),
        (
            "spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/resource",
            {},
            "Container has no such field",
        ),
        ("spec/submissionMode", "HttpMode", "expected one of HTTPMode"),
        ("spec/suspend", "no", "expected bool"),
        ("metadata/label", {}, "ObjectMeta has no such field"),
        ("apiVersion", "ray.io/v1alpha1", "expected ray.io/v1"),
        ("kind", "RayJobs", "expected one of"),
    ],
)
def test_what_is_wrong_is_found(path: str, wrong: Any, said: str) -> None:
    broken = copy.deepcopy(document("kuberay/rayjob.yaml"))
    *parents, last = path.split("/")
    inner: Any = broken
    for key in parents:
        inner = inner[int(key)] if key.isdigit() else inner[key]
    inner[last] = wrong
    (problem,) = problems(broken)
    assert said in problem


def test_what_is_lacking_is_found() -> None:
    broken = copy.deepcopy(document("kuberay/rayjob.yaml"))
    del broken["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"]
    (problem,) = problems(broken)
    assert problem.endswith("groupName: expected it to be there")


@each_file
def test_no_world_is_placed_on_the_head_which_is_on_demand(name: str) -> None:
    head = commands.node_types(name)["headgroup"]
    assert cluster(name)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert head["labels"] == {SPOT: "on-demand"}


@each_file
def test_workers_with_gpus_are_spot_machines_first(name: str) -> None:
    types = commands.node_types(name)
    spot, other = types["spot"], types["on-demand"]
    assert (spot["labels"][SPOT], other["labels"][SPOT]) == ("spot", "on-demand")
    assert spot["priority"] > other["priority"]
    assert spot["resources"] == other["resources"]
    assert spot["resources"]["GPU"] == 1
    assert min(spot["max_workers"], other["max_workers"]) >= 1
    for group, is_head in commands.groups(name):
        wanted = group["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"]
        assert wanted == group["labels"][SPOT], is_head


@each_file
def test_pods_get_more_time_than_a_node_takes_to_drain(name: str) -> None:
    drain = float(image_environment()["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert drain > 0
    for pod in pods(name):
        assert pod["terminationGracePeriodSeconds"] >= drain + 15


@each_file
def test_workers_fit_on_the_smallest_machine_that_has_their_gpu(name: str) -> None:
    machine = MACHINES["gcp-g2-standard-8"]
    asked = commands.groups(name)[1][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    # Kubernetes keeps some of a machine to itself, and so do the daemons of every node.
    assert int(asked["cpu"]) <= machine["cpus"] - 1
    memory = int(asked["memory"].removesuffix("Gi")) << 30
    assert memory <= 0.8 * machine["memory"] * 1e9


@each_file
def test_the_head_is_not_moved_to_pack_machines_closer(name: str) -> None:
    metadata = cluster(name)["headGroupSpec"]["template"]["metadata"]
    assert metadata["annotations"] == {
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }


@each_file
def test_limits_are_requests(name: str) -> None:
    asked = [container["resources"] for container in containers(name)]
    asked.append(cluster(name)["autoscalerOptions"]["resources"])
    for resources in asked:
        assert resources["limits"] == resources["requests"]
        assert {"cpu", "memory"} <= resources["limits"].keys()


@each_file
def test_kueue_admits_it_and_its_autoscaler(name: str) -> None:
    metadata = document(name)["metadata"]
    assert metadata["labels"][QUEUE]
    assert cluster(name)["enableInTreeAutoscaling"]
    assert cluster(name)["autoscalerOptions"]["version"] == "v2"
    assert metadata["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
    # Kueue counts the head and each group, and takes eight at most.
    assert len(cluster(name)["workerGroupSpecs"]) <= 7


@each_file
def test_pods_run_as_no_root_and_gain_nothing(name: str) -> None:
    for pod in pods(name):
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 1000)
        mounted = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.get("volumes", [])}
    # The autoscaler's is beside the head's: a pod is refused for any of its containers.
    for container in [*containers(name), cluster(name)["autoscalerOptions"]]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@each_file
def test_versions_are_those_of_this_checkout(name: str) -> None:
    assert cluster(name)["rayVersion"] == pins()["ray"]
    images = {container["image"] for container in containers(name)}
    assert images == {f"example.com/manyworlds:{VERSION}-cuda"}


@each_file
def test_secrets_come_from_secrets(name: str) -> None:
    for container in containers(name):
        assert {"secretRef": {"name": "manyworlds-storage"}} in container["envFrom"]
        plain = [item["name"] for item in container.get("env", [])]
        assert [item for item in plain if re.search("KEY|SECRET|TOKEN|PASSWORD", item)] == []
    assert cluster(name)["authOptions"] == {"mode": "token"}
    for path, value in leaves(documents(name)):
        assert not re.search(r"AKIA|BEGIN .*PRIVATE|aws_secret", str(value)), path


@each_file
def test_ray_reads_what_its_nodes_start_with(name: str) -> None:
    for group, is_head in commands.groups(name):
        read = commands.read_by_ray(commands.ray_start(group, is_head))
        assert read["head"] == is_head
        assert read["num_cpus"] == (0 if is_head else None)


def test_the_settings_of_the_job_fit_its_workers(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(files.job_settings()))
    wanted: RunConfig = load(str(path), ["run=s3://bucket/run"])
    spot = commands.node_types("kuberay/rayjob.yaml")["spot"]
    worker = spot["resources"]
    # Else the autoscaler would hear of one world at a time.
    assert wanted.cluster.max_parallel == spot["max_workers"] == wanted.worlds
    # Not auto: nobody knows yet what the machines will have.
    assert wanted.cluster.cpus_per_world == worker["CPU"]
    assert wanted.cluster.gpus_per_world == worker["GPU"]
    assert wanted.cluster.pending_timeout >= 1800
    # So many are asked for: without a number one world after the other, as no machine is there.
    spot = commands.node_types("kuberay/rayjob.yaml")["spot"]
    assert wanted.cluster.max_parallel == wanted.worlds == spot["max_workers"]


def test_the_job_ends_its_cluster_and_tries_again() -> None:
    spec = document("kuberay/rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    # In the other modes, $RUN would be what it is in the pod that submits: nothing.
    assert spec["submissionMode"] == "HTTPMode"
    variables = set(re.findall(r"\$(\w+)", spec["entrypoint"]))
    assert variables == {item["name"] for item in containers("kuberay/rayjob.yaml")[0]["env"]}


def test_ray_serve_reads_the_configuration_of_the_service() -> None:
    text = document("kuberay/rayservice.yaml")["spec"]["serveConfigV2"]
    read = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = read.applications
    assert read.http_options.host == "0.0.0.0"
    given = dict(application.args)
    assert given.keys() <= {field.name for field in dataclasses.fields(ServingConfig)}
    settings = ServingConfig(**given).validate()
    worker = commands.node_types("kuberay/rayservice.yaml")["spot"]["resources"]
    assert (settings.cpus, settings.gpus) == (worker["CPU"], worker["GPU"])
    assert settings.token == "env:MANYWORLDS_TOKEN"


def test_a_cluster_and_a_service_have_heads_of_different_names() -> None:
    # KubeRay makes a service NAME-head-svc for each of them.
    names = {document(f"kuberay/{kind}.yaml")["metadata"]["name"] for kind in HEADS}
    assert len(names) == 2
    told = set(re.findall(r"([\w-]+)-(?:head|serve)-svc", (DOCKER / "README.md").read_text()))
    assert told == names


def test_kuberay_finds_the_port_that_it_makes_a_service_of() -> None:
    # It looks for it in the head's container, also where the head answers nobody.
    settings = yaml.safe_load(document("kuberay/rayservice.yaml")["spec"]["serveConfigV2"])
    for container in containers("kuberay/rayservice.yaml"):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["serve"] == settings["http_options"]["port"]


def test_the_service_names_what_builds_it() -> None:
    text = document("kuberay/rayservice.yaml")["spec"]["serveConfigV2"]
    (application,) = yaml.safe_load(text)["applications"]
    module, name = application["import_path"].split(":")
    assert callable(getattr(importlib.import_module(module), name))
