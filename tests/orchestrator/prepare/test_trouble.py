"""Jobs that are killed, disks that fill, and files that are cut short."""

from __future__ import annotations

import errno
import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.prepare import PrepareConfig
from tests.orchestrator.command import manyworlds
from tests.orchestrator.prepare.test_prepare import bytes_of, job, prepare, raw_rows, write
from tests.small_disk import on_small_disk
from workers.errors import DataError, StorageFull
from workers.storage import Storage

ROOT = Path(__file__).parents[3]
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.orchestrator.prepare.test_prepare import job, prepare
from workers.storage import Storage

whole, written = Storage.write_file, 0

def write_file(storage, path, source):
    def half(place):
        source(place)
        os.truncate(place, place.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    global written
    written += 1
    return whole(storage, path, half if written == int(sys.argv[2]) else source)

Storage.write_file = write_file
prepare(job(Path(sys.argv[1])))
"""
"""Prepares, and dies by SIGKILL with a file half written."""


def files_written(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """Return how many files a job of this folder writes through `Storage.write_file`."""
    written: list[str] = []
    whole = Storage.write_file

    def write_file(storage: Storage, path: str, *rest: Any) -> Any:
        written.append(path)
        return whole(storage, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_file", write_file)
        prepare(job(folder, "whole"))
    return len(written)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_a_job_that_is_killed_while_it_writes_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    write(tmp_path / "raw", raw_rows(100))
    after = 1 + int(part * files_written(monkeypatch, tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(after)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    out = tmp_path / "out"
    assert not (out / "summary.json").exists()
    assert any(Storage.is_half_written(path) for path in Storage(str(out)).sizes())
    prepare(job(tmp_path))
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def full_after(files: int) -> Callable[..., Any]:
    """Return a `Storage.write_file` of a disk that has room for so many files."""
    whole, written = Storage.write_file, 0

    def write_file(storage: Storage, path: str, source: Any, *rest: Any) -> Any:
        nonlocal written
        written += 1

        def fill(place: Path) -> None:
            source(place)
            if written > files:
                os.truncate(place, place.stat().st_size // 2)
                raise OSError(errno.ENOSPC, "No space left on device")

        return whole(storage, path, fill, *rest)

    return write_file


@pytest.mark.parametrize("part", [0.0, 0.5, 0.9])
def test_a_disk_that_fills_is_told_and_the_same_command_carries_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    write(tmp_path / "raw", raw_rows(100))
    room = int(part * files_written(monkeypatch, tmp_path))
    config = job(tmp_path)
    words = [
        *("prepare", f"source={config.source}", f"out={config.out}", "text=[q]", "labels=c"),
        *("weight=w", "piece_bytes=2000", "test=0.25", "cluster=none"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_file", full_after(room))
        ended = manyworlds(*words)
    assert ended.code != 0
    assert f"{config.out}/" in ended.err
    assert "expected room on the disk for this file, found none" in ended.err
    assert "make room" in ended.err
    assert "the same command carries on where it was left" in ended.err
    assert not any(Storage.is_half_written(path) for path in Storage(config.out).sizes())
    ended = manyworlds(*words)
    assert ended.code == 0, ended.err
    assert bytes_of(Path(config.out)) == bytes_of(tmp_path / "whole")


SMALL_DISK = """
import sys
from pathlib import Path
from tests.orchestrator.prepare.test_prepare import bytes_of, job, prepare
from workers.errors import StorageFull

folder = Path(sys.argv[1])
ballast = folder / "disk" / "ballast"
ballast.write_bytes(bytes(900_000))
try:
    prepare(job(folder, "disk/out"))
except StorageFull as error:
    assert "the same command carries on" in str(error), error
else:
    raise AssertionError("expected a full disk")
ballast.unlink()
prepare(job(folder, "disk/out"))
assert bytes_of(folder / "disk" / "out") == bytes_of(folder / "whole")
print("as expected")
"""
"""Prepares on a disk of 1 MB, most of which is taken for a while."""


def test_a_real_disk_that_fills(tmp_path: Path) -> None:
    write(tmp_path / "raw", raw_rows(200))
    prepare(job(tmp_path, "whole"))
    (tmp_path / "disk").mkdir()
    ended = on_small_disk(SMALL_DISK, tmp_path, disk="disk")
    assert ended.stdout == "as expected\n", ended.stderr


def pack(folder: Path) -> None:
    for path in folder.iterdir():
        # Two members, as `cat a.gz b.gz` makes them.
        text = path.read_bytes()
        path.with_suffix(f"{path.suffix}.gz").write_bytes(
            gzip.compress(text[: len(text) // 2]) + gzip.compress(text[len(text) // 2 :])
        )
        path.unlink()


@pytest.mark.parametrize("size", [300, 1 << 20])
def test_compressed_files_make_the_same_bytes(tmp_path: Path, size: int) -> None:
    write(tmp_path / "raw", raw_rows(200))
    whole = prepare(job(tmp_path, "whole", piece_bytes=size))
    pack(tmp_path / "raw")
    steps: list[str] = []

    def tell(step: str, done: int, tasks: int) -> None:
        steps.append(step)

    assert prepare(job(tmp_path, piece_bytes=size), progress=tell) == whole
    assert steps.count("unpack") == 3
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_some_files_may_be_compressed_and_others_not(tmp_path: Path) -> None:
    write(tmp_path / "raw", raw_rows(200), files=3)
    expected = prepare(job(tmp_path, "whole"))
    pack(tmp_path / "raw")
    packed = tmp_path / "raw" / "1.jsonl.gz"
    (tmp_path / "raw" / "1.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert prepare(job(tmp_path)) == expected
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "altered", "not packed"])
def test_a_compressed_file_that_is_not_whole_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "raw", raw_rows(200))
    pack(tmp_path / "raw")
    path = tmp_path / "raw" / "1.jsonl.gz"
    packed = bytearray(path.read_bytes())
    if damage == "cut":
        packed = packed[:-20]
    elif damage == "altered":
        # Inside the second member.
        packed[len(packed) * 3 // 4] ^= 255
    else:
        packed = bytearray(b'{"q": "a", "c": ["x"], "w": 1}\n')
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"1\.jsonl\.gz: expected a whole gzip file, found"):
        prepare(job(tmp_path))


def test_a_full_disk_while_unpacking_is_no_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "raw", raw_rows(50))
    pack(tmp_path / "raw")
    config: PrepareConfig = job(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_file", full_after(0))
        with pytest.raises(StorageFull, match="work/unpacked/00000: expected room on the disk"):
            prepare(config)
    assert prepare(config).rows_read == 50
