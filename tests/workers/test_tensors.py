from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from tests.workers.builders import bits
from workers.errors import StorageError
from workers.tensors import read_tensors, tensor_file

TENSORS = {
    "layer.0.weight": torch.arange(12.0).reshape(3, 4),
    "input.weight": torch.arange(35.0).reshape(5, 7).t(),
    "größe": torch.tensor([1.5]),
    "empty": torch.zeros((0, 3)),
}


def test_what_is_written_is_what_safetensors_writes(tmp_path: Path) -> None:
    tensor_file(TENSORS)(tmp_path / "file")
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    assert (tmp_path / "file").read_bytes() == save(contiguous)
    assert bits(load_file(tmp_path / "file")) == bits(contiguous)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    beats: list[None] = []
    tensor_file(TENSORS, lambda: beats.append(None))(tmp_path / "file")
    read = read_tensors(tmp_path / "file", "here")
    (tmp_path / "file").unlink()
    assert bits(read) == bits(TENSORS)
    assert len(beats) == len(TENSORS)


def test_the_systems_error_is_handed_on() -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        tensor_file(TENSORS)(Path("/nowhere/at/all"))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("data", [b"", b"no tensors", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"{}x"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(StorageError, match=r"^here: expected a safetensors file, .* it"):
        read_tensors(tmp_path / "file", "here")


def test_other_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(save({"a": torch.zeros(3, dtype=torch.float64)}))
    with pytest.raises(StorageError, match=r"^here: expected float32 numbers in a, found .*64"):
        read_tensors(tmp_path / "file", "here")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_reading_takes_no_memory(tmp_path: Path) -> None:
    def held() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    size = 64 << 20
    tensor_file({"big": torch.ones(size // 4)})(tmp_path / "file")
    into = torch.full((size // 4,), 2.0)
    before = held()
    tensors = read_tensors(tmp_path / "file", "here")
    into.copy_(tensors["big"])
    assert held() - before < size // 4
    assert int(into.sum()) == size // 4
