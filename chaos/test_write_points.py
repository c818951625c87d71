"""A crash after each single write: enumerated in-process by the tests, which are run here too."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from chaos.training import ROOT

LONGEST = 400.0
"""Seconds."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            "tests/workers/test_crashes.py",
            marks=pytest.mark.case(
                fault="a crash after each single write of a checkpoint (in-process)",
                wanted="what was committed before still opens, and the rest resumes",
            ),
        ),
        pytest.param(
            "tests/orchestrator/test_crashes.py",
            marks=pytest.mark.case(
                fault="a crash after each single write of state.json, of a merge and of the"
                " lease (in-process)",
                wanted="what was committed before still opens, and the rest resumes",
            ),
        ),
    ],
)
def test_a_crash_after_each_write(path: str, record_property: Any) -> None:
    command = [sys.executable, "-m", "pytest", "-q", path]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert ended.returncode == 0 and passed, ended.stdout
    record_property("tests that passed", int(passed[1]))
