"""A disk without room: an error in words, and nothing half behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.small_disk import on_small_disk
from workers.errors import StorageError, StorageFull
from workers.storage import Storage

SMALL_DISK = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from workers.errors import StorageFull
from workers.storage import Storage
disk = Path(sys.argv[1])
storage = Storage(str(disk / "run"))
storage.write_bytes("weights", b"old")
big = {"weights": torch.zeros(1 << 20)}
for write in (
    lambda: storage.write_bytes("weights", bytes(4 << 20)),
    lambda: storage.write_file("weights", lambda path: save_file(big, path)),
    lambda: storage.commit("folder", {"small": b"1", "weights": lambda path: save_file(big, path)}),
):
    try:
        write()
    except StorageFull as error:
        assert "expected room on the disk" in str(error), error
    else:
        raise AssertionError("expected a full disk")
    assert storage.read_bytes("weights") == b"old"
    assert storage.committed("folder") is None
    files = {path.name for path in disk.rglob("*") if path.is_file()}
    assert files <= {"weights", "small"}, files
print("as expected")
"""


@pytest.fixture
def disk(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    ended = on_small_disk(SMALL_DISK, tmp_path)
    assert ended.stdout == "as expected\n", ended.stderr


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_without_room_says_so_and_keeps_what_was_there(
    disk: Storage, trouble: Exception
) -> None:
    disk.write_bytes("file", b"old")

    def write(path: Path) -> None:
        path.write_bytes(b"half")
        path.with_name("left-by-a-library").write_bytes(b"half")
        raise trouble

    with pytest.raises(StorageFull, match=r"run/file: expected room on the disk"):
        disk.write_file("file", write)
    assert disk.read_bytes("file") == b"old"
    assert os.listdir(disk.uri) == ["file"]


def test_a_disk_that_refuses_is_not_called_full(disk: Storage) -> None:
    def write(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(StorageError, match="permissions") as raised:
        disk.write_file("file", write)
    assert not isinstance(raised.value, StorageFull)


def test_files_of_libraries_can_be_read_as_widely_as_others(disk: Storage) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"data")
        path.chmod(0o600)

    disk.write_bytes("plain", b"data")
    disk.write_file("written", write)
    modes = [Path(disk.uri, name).stat().st_mode for name in ("plain", "written")]
    assert modes[0] == modes[1]
