"""Starts services and runs commands in namespaces of their own: `run`.

The module as a program reads a plan as JSON from its standard input, and writes one line of JSON
for every command. It is the first process of its PID namespace: with it, all that it started ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.docker.commands import surroundings
from tests.docker.files import ROOT

_NAMESPACES = shlex.split(
    "unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc"
)
_SET_FLAGS, _UP = 0x8914, 1
"""Of Linux: the call that sets an interface's flags, and the flag that it is up."""
_HEALTHY_WITHIN = 120.0
"""Seconds."""


def run(plan: dict[str, Any], folder: Path, **more: str) -> list[tuple[list[str], int, str]]:
    """Do a plan where no other Ray cluster is, and none hears of this one.

    Args:
        plan: services, and commands with their environment and the folder that they run in.
        folder: for what is written beside.
        more: variables of all of them.

    Returns:
        Each command, how it ended, and what it printed.
    """
    if subprocess.run([*_NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine forbids namespaces to users")
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost storage head worker {socket.gethostname()}\n")
    # Where Ray keeps its sockets and which cluster is the machine's.
    Path("/tmp/ray").mkdir(exist_ok=True)
    for name in ("ray", "logs"):
        (folder / name).mkdir()
    mounts = [[str(hosts), "/etc/hosts"], [str(folder / "ray"), "/tmp/ray"], *plan["mounts"]]
    ended = subprocess.run(
        [*_NAMESPACES, sys.executable, "-m", "tests.docker.inside"],
        input=json.dumps({**plan, "mounts": mounts, "logs": str(folder / "logs")}),
        cwd=ROOT,
        env=surroundings(**more),
        capture_output=True,
        text=True,
        check=False,
    )
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    logs = {path.name: path.read_text() for path in (folder / "logs").iterdir()}
    wanted = [*(service["check"] for service in plan["services"]), *plan["commands"]]
    assert [(command, code) for command, code, _ in told] == [(words, 0) for words in wanted], (
        f"{told}\n{logs}\n{ended.stderr}"
    )
    return told


def main() -> None:
    """Do what the plan says; end at the first command that fails."""
    plan = json.load(sys.stdin)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))
    for source, target in plan["mounts"]:
        subprocess.run(["mount", "--bind", source, target], check=True)
    os.chdir(plan["folder"])
    for service in plan["services"]:
        for number in range(service["replicas"]):
            log = open(f"{plan['logs']}/{service['name']}-{number}", "w")  # noqa: SIM115
            environment = {**os.environ, **service["environment"]}
            subprocess.Popen(service["command"], env=environment, stdout=log, stderr=log)
        if not _tell(service["check"], service["environment"], patience=_HEALTHY_WITHIN):
            return
    for command in plan["commands"]:
        if not _tell(command, plan["environment"]):
            return


def _tell(command: list[str], environment: dict[str, str], patience: float = 0.0) -> bool:
    """Run a command, again and again while it fails and there is patience; tell how it ended."""
    until = time.monotonic() + patience
    ended: subprocess.CompletedProcess[Any] | None = None
    while ended is None or (ended.returncode and time.monotonic() < until):
        ended = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    print(json.dumps([command, ended.returncode, ended.stdout]), flush=True)
    return not ended.returncode


if __name__ == "__main__":
    main()
