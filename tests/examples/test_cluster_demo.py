"""What the cluster's demo waits for; `make cluster-demo` runs all of it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from examples.cluster_demo import wait_for


@pytest.mark.parametrize("code", [0, 1])
def test_nothing_is_waited_for_once_the_job_has_ended(tmp_path: Path, code: int) -> None:
    job = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    job.wait()
    with pytest.raises(SystemExit) if code else contextlib.nullcontext():
        wait_for(str(tmp_path / "run"), job, lambda views: False)
