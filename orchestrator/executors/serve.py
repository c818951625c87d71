"""An ensemble on Ray Serve: replicas that answer, on whatever machines have room."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.executors.cluster import connected
from orchestrator.schema import Layer, made
from orchestrator.serving import front
from orchestrator.serving.settings import ServingConfig
from workers.errors import RunError

APPLICATION = "manyworlds"
"""Its name on the cluster."""
_ENVIRONMENT = {
    # Part of the proxy, so that a request outlives the replica that it was sent to.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "orchestrator.serving.front.middlewares",
    # Every request in a log file costs more than its answer.
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
_SCHEDULING = "to be scheduled"
"""What Ray Serve says of replicas that no machine has room for."""
_LOOK_SECONDS = 0.1
"""Between two looks at replicas that start."""
_HEALTH_SECONDS = 2.0
"""Between two looks at a replica."""


def build(settings: Mapping[str, Any]) -> Any:
    """Return the application of some settings, as files of Ray Serve and KubeRay name it.

    Args:
        settings: of `ServingConfig`, nested as in YAML.

    Raises:
        ConfigError: a setting that cannot work.
    """
    return application(made(ServingConfig, [Layer("", dict(settings))]).validate())


def application(config: ServingConfig) -> Any:
    """Return what Ray Serve runs."""
    from ray import serve

    deployment: Any = serve.deployment(
        name="Answers",
        num_replicas=config.replicas,
        max_ongoing_requests=config.waiting + config.batch,
        health_check_period_s=_HEALTH_SECONDS,
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
        logging_config={"enable_access_log": False},
    )
    return deployment(serve.ingress(_app(config))()).bind()


@contextmanager
def serving(
    config: ServingConfig, address: str, *, tell: Callable[[str], None] = lambda line: None
) -> Iterator[str]:
    """Serve on a cluster while the context is entered; yields the URL.

    Other applications of the cluster's Ray Serve are left alone.

    Args:
        config: validated.
        address: of the cluster, as of `cluster.connect`.
        tell: told what it waits for, where that takes long.

    Raises:
        RunError: no cluster can be reached, or its replicas do not start.
    """
    from ray import serve

    environment = {**_ENVIRONMENT, front.MOST_BYTES: str(config.most_bytes)}
    with _environment(environment), connected(address):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(http_options={"host": config.host, "port": config.port})
        target = serve.RunTarget(application(config), name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        try:
            _await_replicas(tell)
            yield f"http://{config.host}:{config.port}"
        finally:
            serve.delete(APPLICATION)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables for what is started inside."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _await_replicas(tell: Callable[[str], None]) -> None:
    """Return when all replicas answer.

    Raises:
        RunError: they end while they start.
    """
    from ray import serve

    told = False
    while True:
        found = serve.status().applications.get(APPLICATION)
        if found is not None:
            if found.status == "RUNNING":
                return
            messages = [one.message for one in found.deployments.values() if one.message]
            if found.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise RunError(_explained([*messages, found.message]))
            if not told and any(_SCHEDULING in message for message in messages):
                told = True
                tell(f"waiting for room in the cluster: {messages[0].partition('. ')[2]}")
        time.sleep(_LOOK_SECONDS)


def wait() -> None:
    """Return when the process is told to end."""
    while True:
        time.sleep(3600)


def _app(config: ServingConfig) -> Callable[[], Any]:
    def make() -> Any:
        # Where the replica is: its token is in its own environment.
        from orchestrator.serving.app import make_app

        return make_app(config, token=config.secret())

    return make


def _explained(messages: Sequence[str]) -> str:
    lines = [line.strip() for line in messages[0].splitlines() if line.strip()]
    why = lines[-1] if lines else "no reason given"
    return f"expected replicas that start, found: {why}"
