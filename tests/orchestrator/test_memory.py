"""The count that the out-of-memory killer leaves, wherever the system keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.executors.memory import oom_kills

V2 = "low 0\nhigh 3\nmax 12\noom 4\noom_kill 2\noom_group_kill 9\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"


def system(root: Path, cgroup: str | None, files: dict[str, str]) -> Path:
    """Write what a system would show of itself."""
    if cgroup is not None:
        files = {**files, "proc/self/cgroup": cgroup}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "count"),
    [
        ("0::/\n", {"sys/fs/cgroup/memory.events": V2}, 2),
        ("0::/user.slice/one\n", {"sys/fs/cgroup/user.slice/one/memory.events": V2}, 2),
        # The path is the host's, the files are the container's.
        ("0::/kubepods/pod1\n", {"sys/fs/cgroup/memory.events": V2}, 2),
        (
            "4:cpu,memory:/jobs/a\n0::/\n",
            {"sys/fs/cgroup/memory/jobs/a/memory.oom_control": V1},
            5,
        ),
        ("4:memory:/docker/ab\n", {"sys/fs/cgroup/memory/memory.oom_control": V1}, 5),
        ("0::/\n", {"sys/fs/cgroup/memory.events": "low 0\n"}, None),
        ("0::/\n", {"sys/fs/cgroup/memory.events": "oom_kill many\n"}, None),
        ("0::/\n", {}, None),
        (None, {}, None),
        (None, {"sys/fs/cgroup/memory.events": V2}, 2),
    ],
)
def test_the_count_is_found_or_there_is_none(
    tmp_path: Path, cgroup: str | None, files: dict[str, str], count: int | None
) -> None:
    assert oom_kills(system(tmp_path, cgroup, files)) == count
