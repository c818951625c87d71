"""An ensemble on Ray Serve: replicas that answer, on whatever machines have room."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.executors.cluster import connected
from orchestrator.schema import Layer, made
from orchestrator.serving import front
from orchestrator.serving.ports import check_free
from orchestrator.serving.settings import ENDING_SECONDS, ServingConfig
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
        max_ongoing_requests=config.most_requests,
        # Of a proxy; more are refused, instead of being kept there without an end.
        max_queued_requests=config.waiting,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        graceful_shutdown_timeout_s=ENDING_SECONDS,
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
        RunError: no cluster can be reached, it serves already or listens elsewhere, the port
            is taken, or the replicas do not start.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    environment = {**_ENVIRONMENT, **front.limits(config)}
    with connected(address):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        _check_place(config)
        serve.start(
            http_options={"host": config.host, "port": config.port},
            # Proxies and replicas have it of the controller, which starts them.
            controller_options={"runtime_env": {"env_vars": environment}},
        )
        target = serve.RunTarget(application(config), name=APPLICATION, route_prefix="/")
        try:
            serve.run_many([target], wait_for_applications_running=False)
        except RayServeException as error:
            raise RunError(_explained([str(error)])) from error
        try:
            _await_replicas(tell)
            yield f"http://{config.host}:{config.port}"
        finally:
            serve.delete(APPLICATION)


def _check_place(config: ServingConfig) -> None:
    """Raise `RunError` if an ensemble is served already, or not where it would be looked for."""
    from ray import serve

    there = _listens()
    ending = "`serve shutdown` ends all that Ray Serve runs there"
    if APPLICATION in serve.status().applications:
        raise RunError(
            "expected a cluster that serves no ensemble yet, found one that does; end that with"
            f" Ctrl-C where it was started, or, if nothing is left there, {ending}"
        )
    if there is None:
        check_free(config.host, config.port)
    elif there != (config.host, config.port):
        host, port = there
        raise RunError(
            f"expected to listen on port {config.port} of {config.host}, found that the cluster's"
            f" Ray Serve listens on port {port} of {host} already; give host={host} port={port},"
            f" or start it anew: {ending}"
        )


def _listens() -> tuple[str, int] | None:
    """Return the host and port of the cluster's Ray Serve; None: it does not run."""
    # The only place where Ray tells this is private to it, and may be gone in another version.
    with suppress(ImportError, AttributeError):
        from ray.serve.context import _check_cached_client_alive, _get_global_client

        # It would go on with one of another cluster, which this process was in before.
        _check_cached_client_alive()
        client: Any = _get_global_client(raise_if_no_controller_running=False)
        return client and (client.http_config.host, client.http_config.port)
    return None


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
