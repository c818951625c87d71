"""A disk of one megabyte, made for a script that runs on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


def on_small_disk(script: str, folder: Path, *, disk: str = "") -> subprocess.CompletedProcess[str]:
    """Run a Python script beside a small disk; skip the test where none can be mounted.

    Args:
        script: gets `folder` as its argument.
        folder: that exists.
        disk: in it, the folder that is the small disk.
    """
    inside = 'mount -t tmpfs -o size=1m tmpfs "$4" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh"]
    place = str(folder / disk)
    try:
        probe = subprocess.run([*command, str(folder), "true", "", place], capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if probe.returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own")
    return subprocess.run(
        [*command, str(folder), sys.executable, script, place],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
    )
