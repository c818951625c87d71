"""A cluster of several machines, on this one: each is a set of Ray processes of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from orchestrator.executors.cluster import connect
from orchestrator.state import Attempt

MACHINES = 3
PREEMPTION: int = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]
SMALL = 80 << 20
"""Bytes of the object store."""


HEAD: dict[str, Any] = {
    "object_store_memory": SMALL,
    "include_dashboard": False,
    # A machine that is gone is noticed within seconds; one that is slow stays.
    "_system_config": {"health_check_period_ms": 500, "health_check_initial_delay_ms": 500},
}


@contextmanager
def joined(**resources: float) -> Iterator[Cluster]:
    """Be in a cluster whose head has these resources, and end it afterwards."""
    nodes = Cluster(initialize_head=True, head_node_args={**HEAD, **resources})
    try:
        assert connect(nodes.address)
        yield nodes
    finally:
        ray.shutdown()
        shutdown: Callable[[], None] = nodes.shutdown
        shutdown()


class Machines:
    """A cluster of a head without GPUs and three machines with one each, or one that becomes so."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={**HEAD, "num_cpus": 1, "num_gpus": 0},
        )
        self.nodes: dict[str, Any] = {}
        self.drained: list[Any] = []

    def complete(self) -> None:
        """Add machines until there are three that stay."""
        while len(self.nodes) < MACHINES:
            self.add()

    def add(self, **environment: str) -> None:
        """Add a machine on which processes have these variables too."""
        node = self.cluster.add_node(
            num_cpus=1, num_gpus=1, object_store_memory=SMALL, env_vars=environment
        )
        self.nodes[node.node_id] = node

    def remove(self, node: str) -> None:
        self.cluster.remove_node(self.nodes.pop(node), allow_graceful=False)

    def drain(self, node: str, seconds: float) -> None:
        accepted, why = GcsClient(self.cluster.address).drain_node(
            node,
            PREEMPTION,
            "spot machine taken back",
            int((time.time() + seconds) * 1000),
        )
        assert accepted, why
        self.drained.append(self.nodes.pop(node))

    def clear(self) -> None:
        """Take the machines away that were drained."""
        while self.drained:
            self.cluster.remove_node(self.drained.pop())

    def full_id(self, attempt: Attempt) -> str:
        """Return the id of the machine that an attempt ran on."""
        (found,) = [node for node in self.nodes if f"({node[:8]})" in str(attempt.node)]
        return found

    def close(self) -> None:
        """End every process of the cluster."""
        self.cluster.shutdown()  # type: ignore[no-untyped-call]
