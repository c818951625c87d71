"""An ensemble on Ray Serve: replicas that answer, on whatever machines have room."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from orchestrator.executors.cluster import connected
from orchestrator.schema import Layer
from orchestrator.schema import build as built
from orchestrator.serving.settings import ServingConfig
from workers.errors import ConfigError, RunError

APPLICATION = "manyworlds"
"""Its name on the cluster."""
_ENVIRONMENT = {
    # Part of the proxy, so that a request outlives the replica that it was sent to.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "orchestrator.serving.front.middlewares",
    # Every request in a log file costs more than its answer.
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
_HEALTH_SECONDS = 2.0
"""Between two looks at a replica."""


def build(settings: Mapping[str, Any]) -> Any:
    """Return the application of some settings, as files of Ray Serve and KubeRay name it.

    Args:
        settings: of `ServingConfig`, nested as in YAML.

    Raises:
        ConfigError: a setting that cannot work.
    """
    found = built(ServingConfig, [Layer("", dict(settings))])
    if found.problems or found.value is None:
        raise ConfigError("\n".join(found.problems))
    return application(found.value.validate())


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
def serving(config: ServingConfig, address: str) -> Iterator[str]:
    """Serve on a cluster while the context is entered; yields the URL.

    Args:
        config: validated.
        address: of the cluster, as of `cluster.connect`.

    Raises:
        RunError: no cluster can be reached, or has room for the replicas, or they fail.
    """
    from ray import serve

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with connected(address):
        options = {"host": config.host, "port": config.port}
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(http_options=options)
            serve.run(application(config), name=APPLICATION, route_prefix="/")
            yield f"http://{config.host}:{config.port}"
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise RunError(_explained(error)) from error
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]


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


def _explained(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"expected the replicas to start, found: {lines[-1] if lines else error!r}"
