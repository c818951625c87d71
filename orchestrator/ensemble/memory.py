"""How much memory an ensemble takes of its own, told before it is taken.

Weights and a stored lookup are mapped files: the system keeps of them what fits, and drops it
when others need the memory. What is counted here stays.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from orchestrator.ensemble.artefact import Manifest
from orchestrator.ensemble.lookup import LOOKUP_BYTES, lookup_bytes
from orchestrator.words import size
from workers.classifier import choose_bf16, parameter_shapes
from workers.errors import StorageError
from workers.lsh.network import by_tables, first_codes, tables_bytes


def own_bytes(manifest: Manifest, device: str) -> int:
    """Return the bytes that an ensemble takes on the host once it is open, mapped files apart.

    Args:
        manifest: of the ensemble.
        device: `cpu` or `cuda`.
    """
    lookup = lookup_bytes(manifest.partitions())
    kept = lookup if manifest.lookup == "computed" and lookup <= LOOKUP_BYTES else 0
    if device != "cpu":
        return kept
    shapes = parameter_shapes(manifest.config)
    if by_tables(manifest.config):
        held = first_codes(manifest.config, device="meta").values()
        tables = tables_bytes(manifest.config) + sum(tensor.nbytes for tensor in held)
        numbers = sum(math.prod(shape) for shape in shapes.values())
        copied = 0 if manifest.weights == "fp32" else 4 * numbers
        return kept + (tables + copied) * len(manifest.members)
    products = "bf16" if choose_bf16(manifest.config.training.precision, device) else "fp32"
    if manifest.weights == products:
        return kept
    matrices = (shape for name, shape in shapes.items() if len(shape) == 2 and "input" not in name)
    copied = sum(math.prod(shape) for shape in matrices) * (2 if products == "bf16" else 4)
    return kept + copied * len(manifest.members)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take; None where the system does not tell.

    Args:
        root: of the file system, for tests.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        found.append(int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1]) << 10)
    with contextlib.suppress(OSError, ValueError):
        # Of a container; "max" where it has no limit.
        group = root / "sys/fs/cgroup"
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        cached = (group / "memory.stat").read_text().splitlines()
        # Pages of files are dropped when they must be.
        files = sum(int(line.split()[1]) for line in cached if line.startswith("file "))
        found.append(limit - used + files)
    return min(found, default=None)


def check(manifest: Manifest, device: str, where: str, available: int | None) -> None:
    """Check that an ensemble fits into memory.

    Raises:
        StorageError: if it does not; with the bytes.
    """
    needed = own_bytes(manifest, device)
    if available is not None and needed > available:
        raise StorageError(
            f"{where}: expected {size(needed)} of memory to open it, found {size(available)}"
            f" ({needed:,} and {available:,} bytes); merge the run with '--weights bf16 --lookup"
            " stored', of which all is mapped from files where products are taken in bf16, or take"
            " a machine with more memory"
        )
