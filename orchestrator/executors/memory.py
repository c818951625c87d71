"""Whether the system's out-of-memory killer was at work: it leaves nothing but a count."""

from __future__ import annotations

import contextlib
from pathlib import Path


def oom_kills(root: Path = Path("/")) -> int | None:
    """Return how many processes of this process's cgroup were killed for memory so far.

    Args:
        root: of the file system, for tests.

    Returns:
        The count since the cgroup was made; None where the system does not tell.
    """
    for path in _counters(root):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return None


def _counters(root: Path) -> list[Path]:
    """Return the files to look at: of cgroups of version 2, then of version 1."""
    mounted = root / "sys/fs/cgroup"
    unified, memory = "", ""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                unified = path.lstrip("/")
            elif "memory" in controllers.split(","):
                memory = path.lstrip("/")
    # In a container the path may be the host's, which is not to be seen from inside.
    return [
        mounted / unified / "memory.events",
        mounted / "memory.events",
        mounted / "memory" / memory / "memory.oom_control",
        mounted / "memory" / "memory.oom_control",
    ]
