"""Load by wrk: so many clients, each asking again as soon as it is answered."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MISSING = "expected wrk, which makes the load, found none; on Debian and Ubuntu: apt install wrk"
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_SCRIPT = """
local bodies = {%s}
local next = 0
request = function()
  next = next %% #bodies + 1
  return wrk.format("POST", "/predict", {["content-type"] = "application/json"}, bodies[next])
end
done = function(summary, latency, requests)
  io.write(string.format("failed %%d\\n", summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.status + summary.errors.timeout))
end
"""


def load(url: str, bodies: Sequence[str], *, clients: int, seconds: float) -> dict[str, Any]:
    """Return requests a second, latencies in ms, and how many requests failed.

    Args:
        url: of the service.
        bodies: of requests to /predict, sent one after the other and again.
        clients: connections.
        seconds: for how long.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit(MISSING)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "bodies.lua")
        script.write_text(_SCRIPT % ", ".join(json.dumps(body) for body in bodies))
        words = [wrk, "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s", "--latency"]
        told = subprocess.run([*words, "-s", str(script), url], capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(f"wrk: {told.stdout}{told.stderr}")
    return {
        "requests a second": float(_found(r"Requests/sec:\s+([\d.]+)", told.stdout)),
        "p50, ms": _milliseconds("50", told.stdout),
        "p99, ms": _milliseconds("99", told.stdout),
        "requests": int(_found(r"(\d+) requests in", told.stdout)),
        "failed": int(_found(r"failed (\d+)", told.stdout)),
    }


def _milliseconds(share: str, text: str) -> float:
    number, unit = re.findall(rf"\b{share}%\s+([\d.]+)(us|ms|s|m)\b", text)[0]
    return round(1000 * float(number) * _SECONDS[unit], 3)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"wrk: expected {pattern}, found {text}")
    return found[1]
