"""What is served, where, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.observers.settings import FROM_ENVIRONMENT
from workers.errors import ConfigError

ENDING_SECONDS = 10
"""That requests at hand have when the service ends."""


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """The settings of `manyworlds serve`."""

    ensemble: str = ""
    """A run, of which the current ensemble is served, or an ensemble; any pyarrow.fs URI."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all of the machine's."""
    port: int = 8000
    replicas: int = 1
    """Processes that answer, on whatever machines of the cluster have room."""
    cpus: int = 1
    """Of each replica: it computes with so many threads."""
    gpus: float = 0.0
    """Of each replica; 0: it computes on CPUs."""
    token: str | None = None
    """`env:NAME`, the environment variable that holds the bearer token which requests must have;
    null: anybody may ask."""
    batch: int = 64
    """Queries of requests that came at the same time, answered together at most."""
    waiting: int = 512
    """Requests of a replica that wait at most; more are refused."""
    most_queries: int = 256
    """Of one request."""
    most_k: int = 1000
    """Classes a query."""
    most_bytes: int = 1 << 20
    """Of a request's body."""
    body_seconds: float = 10.0
    """Within which a request's body must be there."""
    refresh_seconds: float = 5.0
    """A run is asked so often whether it has another ensemble, which then takes over."""
    copies: str | None = None
    """Folder on each machine for ensembles that are served from object stores, which its replicas
    share; null: one of this user's under the system's folder for temporary files."""
    neighbours: int = 6
    """Classes of the same bucket that an explanation names."""

    def validate(self) -> ServingConfig:
        """Return this.

        Raises:
            ConfigError: with one sentence for each setting that cannot work.
        """
        if found := self._problems():
            raise ConfigError("\n".join(found))
        return self

    @property
    def most_requests(self) -> int:
        """Of each replica at a time: those that wait, and a batch of them that is answered."""
        return self.waiting + self.batch

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Of each replica."""
        return "cuda" if self.gpus else "cpu"

    def secret(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """Return the token; None: there is none.

        Raises:
            ConfigError: the variable is not set, or holds nothing.
        """
        if self.token is None:
            return None
        name = self.token.removeprefix(FROM_ENVIRONMENT)
        # Files that variables are set from end with a line's end, which no header can hold.
        if not (found := environment.get(name, "").strip()):
            raise ConfigError(
                f"token: expected the environment variable {name} to hold the token, found it"
                " unset or empty; set it, or leave token= out and let anybody ask"
            )
        return found

    def _problems(self) -> list[str]:
        found = []
        if not self.ensemble:
            found.append("expected a run or an ensemble, found nothing")
        if not 0 <= self.port < 1 << 16:
            found.append(f"port: expected 0 to 65535, found {self.port}")
        for name in ("replicas", "cpus", "batch", "waiting", "most_queries", "most_k"):
            if getattr(self, name) < 1:
                found.append(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.most_bytes < 1 << 10:
            found.append(f"most_bytes: expected at least 1024, found {self.most_bytes}")
        for name in ("refresh_seconds", "body_seconds"):
            if getattr(self, name) <= 0:
                found.append(f"{name}: expected more than 0, found {getattr(self, name)}")
        for name in ("gpus", "neighbours"):
            if getattr(self, name) < 0:
                found.append(f"{name}: expected at least 0, found {getattr(self, name)}")
        if self.token is not None and not self.token.removeprefix(FROM_ENVIRONMENT):
            found.append("token: expected env:NAME, found env: without a name")
        # A token in a command line is in the process table and in shells' histories.
        if self.token is not None and not self.token.startswith(FROM_ENVIRONMENT):
            found.append("token: expected env:NAME, the variable that holds it, found another text")
        return found
