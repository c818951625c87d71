"""A run's report, written to a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from orchestrator.report.facts import gather
from orchestrator.report.page import page
from workers.errors import ConfigError
from workers.storage import Storage


def write(run: str, out: str) -> str:
    """Write the report of a run, finished or not; return the path or URI of the file.

    Args:
        run: its folder or URI; nothing is written there.
        out: the file, in the place of an older one.

    Raises:
        ConfigError: `out` names a folder.
        RunError: there is no such run.
        StorageError: a file that says how far the run is was altered, or `out` cannot be written.
    """
    folder, _, name = out.rpartition("/")
    storage = Storage(folder or ("/" if out.startswith("/") else "."))
    if not name or (storage.is_local and Path(out).is_dir()):
        raise ConfigError(
            f"out: expected the file to write, found the folder {out};"
            f" for example out={out.rstrip('/')}/report.html"
        )
    # A message may hold halves of characters, which no file can.
    data = page(gather(run, datetime.now(UTC))).encode("utf-8", "replace")
    storage.write_bytes(name, data)
    return storage.where(name)
