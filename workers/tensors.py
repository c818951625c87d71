"""Tensors in safetensors files, written and read without a second copy in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from workers.errors import StorageError

Tensors = dict[str, Tensor]

_ALIGNMENT = 8
_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int8: "I8"}


def tensor_file(
    tensors: Tensors, beat: Callable[[], None] = lambda: None
) -> Callable[[Path], None]:
    """Return what writes `tensors` as a safetensors file, in the order of their names.

    Written here and not by `safetensors.torch.save_file`, which leaves its own temporary file
    when it is killed, lets only the user read the file, and hides why a disk refused.

    Args:
        tensors: float32, bf16 or int8, on any device; they reach the host one after the other.
        beat: a sign of life, called after each tensor that was written.
    """

    def write(path: Path) -> None:
        with path.open("xb") as file:
            file.write(_header(tensors))
            for name in sorted(tensors):
                on_cpu = tensors[name].detach().to("cpu").contiguous()
                file.write(on_cpu.flatten().view(torch.uint8).numpy().data)
                beat()

    return write


def _header(tensors: Tensors) -> bytes:
    text = json.dumps(dict(_entries(tensors)), separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _entries(tensors: Tensors) -> Iterator[tuple[str, dict[str, object]]]:
    start = 0
    for name, tensor in sorted(tensors.items()):
        stop = start + tensor.numel() * tensor.element_size()
        yield (
            name,
            {
                "dtype": _KINDS[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, stop],
            },
        )
        start = stop


def read_tensors(path: Path, where: str) -> Tensors:
    """Return the float32 tensors of a safetensors file, mapped: the system may drop their pages.

    Args:
        path: on a local disk; may be removed once this has returned.
        where: the words that name the file in an error.

    Raises:
        StorageError: if it is no safetensors file, or holds other numbers.
    """
    try:
        tensors: Tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise StorageError(
            f"{where}: expected a safetensors file, found: {error}; restore it, or remove it"
        ) from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise StorageError(
                f"{where}: expected float32 numbers in {name}, found {tensor.dtype};"
                " restore it, or remove it"
            )
    return tensors
