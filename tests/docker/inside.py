"""Starts the services of a compose file and runs commands, in namespaces of its own.

It reads a plan as JSON from its standard input, and writes one line of JSON for every command.
The process is the first of its PID namespace: with it, all that it started ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from typing import Any

_SET_FLAGS, _UP = 0x8914, 1
"""Of Linux: the call that sets an interface's flags, and the flag that it is up."""
_HEALTHY_WITHIN = 120.0
"""Seconds."""


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
