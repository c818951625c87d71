"""Where each class is: its bucket in every world, computed when asked for, or stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.errors import StorageError
from workers.partition import Partition, packed
from workers.threads import Pool, spans

Ids = NDArray[np.int64]
Rows = NDArray[np.unsignedinteger[Any]]

LOOKUP_BYTES = 256 << 20
"""That the buckets of all classes in all worlds may take in memory, unless they are on disk."""
_BLOCK = 1 << 14
"""Classes that a task computes the buckets of."""


class BucketLookup:
    """The buckets of any classes in R worlds.

    Takes all K * R of them from `stored`; makes them itself if they fit into `most_bytes`; and
    computes them whenever asked if they do not.

    Args:
        partitions: of the R worlds, all with the same K and B.
        pool: threads that compute what is kept.
        most_bytes: that what is kept may take.
        stored: as `lookup_file` wrote them and `open_lookup` gives them.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        pool: Pool,
        *,
        most_bytes: int = LOOKUP_BYTES,
        stored: Rows | None = None,
    ) -> None:
        self.partitions = tuple(partitions)
        self.classes = partitions[0].classes
        self.buckets = partitions[0].buckets
        self.packed = packed(partitions)
        """The permutations that kernels search by; None if a partition is made otherwise."""
        self._kind = bucket_type(self.buckets)
        self.stored = stored
        """(K, R), or None: a class's buckets side by side, as one that is looked at is asked for
        those of several worlds."""
        if stored is None and lookup_bytes(partitions) <= most_bytes:
            self.stored = np.empty((self.classes, len(self.partitions)), self._kind)
            pool.run(self._fill, spans(self.classes, _BLOCK))

    @property
    def invertible(self) -> bool:
        """Whether the classes of a bucket are found without a look at all of them."""
        return all(partition.invertible for partition in self.partitions)

    def _fill(self, start: int, stop: int) -> None:
        assert self.stored is not None
        _compute(self.partitions, start, stop, self.stored[start:stop])

    def buckets_of(self, classes: Ids, worlds: int) -> Rows:
        """Return the bucket of each class, int64 (n,), in the first worlds, (worlds, n)."""
        if self.stored is not None:
            return self.stored[classes, :worlds].T
        rows = [part.buckets_of(classes) for part in self.partitions[:worlds]]
        return np.stack(rows).view(np.uint32)

    def rows(self, start: int, stop: int, worlds: int) -> tuple[Rows, int, int]:
        """Return the buckets of the classes [start, stop) in the first `worlds` worlds at least.

        Returns:
            An array with a row for each class, and from which row to which they are.
        """
        if self.stored is not None:
            return self.stored, start, stop
        out: Rows = np.empty((stop - start, worlds), self._kind)
        _compute(self.partitions[:worlds], start, stop, out)
        return out, 0, stop - start


def bucket_type(buckets: int) -> type[np.uint16 | np.uint32]:
    """Return the type that buckets are kept in: two bytes if B is at most 65,536, else four."""
    return np.uint16 if buckets <= 1 << 16 else np.uint32


def lookup_bytes(partitions: Sequence[Partition]) -> int:
    """Return the bytes of all K * R buckets."""
    first = partitions[0]
    return first.classes * len(partitions) * np.dtype(bucket_type(first.buckets)).itemsize


def lookup_file(partitions: Sequence[Partition], pool: Pool) -> Callable[[Path], None]:
    """Return what writes all K * R buckets as a `.npy` file of (K, R), a part at a time."""
    shape = partitions[0].classes, len(partitions)
    kind = np.dtype(bucket_type(partitions[0].buckets)).newbyteorder("<")

    def write(path: Path) -> None:
        with path.open("xb") as file:
            header = {"descr": kind.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            part = np.empty((min(shape[0], pool.threads * _BLOCK), shape[1]), kind)
            for start, stop in spans(shape[0], len(part)):

                def fill(first: int, last: int, start: int = start) -> None:
                    _compute(partitions, start + first, start + last, part[first:last])

                pool.run(fill, spans(stop - start, _BLOCK))
                file.write(part[: stop - start].data)

    return write


def open_lookup(path: Path, partitions: Sequence[Partition], pool: Pool) -> Rows:
    """Return what `lookup_file` wrote, by memory map.

    Raises:
        StorageError: if it is of another shape or type, or names buckets that there are not.
    """
    shape, buckets = (partitions[0].classes, len(partitions)), partitions[0].buckets
    kind = np.dtype(bucket_type(buckets))
    try:
        # Copy on write, though nobody writes: kernels are compiled for arrays that may be.
        found: Rows = np.asarray(np.lib.format.open_memmap(path, mode="c"))
    except (ValueError, OSError) as error:
        raise StorageError(f"{path}: expected a .npy file, found: {error}; merge again") from error
    if found.shape != shape or found.dtype != kind or not found.flags.c_contiguous:
        raise StorageError(
            f"{path}: expected {kind} of {shape}, found {found.dtype} of {found.shape};"
            " merge the run again"
        )

    def check(start: int, stop: int) -> None:
        # Kernels take buckets without another look, and would read what is not theirs.
        high = found[start:stop].max()
        if high >= buckets:
            raise StorageError(
                f"{path}: expected buckets from 0 to {buckets - 1:,}, found {high};"
                " merge the run again"
            )

    pool.run(check, spans(shape[0], _BLOCK))
    return found


def _compute(partitions: Sequence[Partition], start: int, stop: int, out: Rows) -> None:
    """Write the buckets of the classes [start, stop) in each world, (stop - start, worlds)."""
    classes = np.arange(start, stop)
    for world, partition in enumerate(partitions):
        out[:, world] = partition.buckets_of(classes)
