"""One attempt at a world of a run, with no driver to end it: `RUN WORLD ATTEMPT`."""

from __future__ import annotations

import sys

from orchestrator import api
from workers.attempt import run_attempt


def main(run: str, world: str, attempt: str) -> None:
    """Train the world to its end."""
    run_attempt(run, api.status(run).config.world_config(), int(world), attempt)


if __name__ == "__main__":
    main(*sys.argv[1:])
