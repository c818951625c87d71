"""The sets that benchmarks run on: where they are, what their columns mean, their labels.

Most sets lie in the folder that the environment variable `MANYWORLDS_DATA`
names, one folder a set: Parquet shards of training and test rows, `stats.json`
with the number of classes, and mostly `labels.parquet` with the
columns `id` and `name`. `api_search` is built on the spot from the
documentation of installed packages. Nothing is downloaded: `find_sets` leaves
out what is not there and says so.

This module imports numpy and pyarrow only, so that peers can read the same rows
in an environment that cannot hold the rest of the project.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DATA_VARIABLE = "MANYWORLDS_DATA"
CACHE = Path(__file__).resolve().parent.parent / ".bench" / "data"
"""Where sets are built that are not found ready-made."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSet:
    """One set of labelled rows, split into training and test."""

    name: str
    """What the set is called in tables and result files."""
    train: Path
    """Folder of the training shards (Parquet)."""
    test: Path
    """Folder of the test shards (Parquet)."""
    classes: int
    """Number of classes K; labels are integers in [0, K)."""
    class_names: Path | None
    """Parquet file with the columns id and name; None: classes have no names."""
    text: tuple[str, ...] = ()
    """Text columns."""
    indices: str | None = None
    """Column of feature ids."""
    values: str | None = None
    """Column of feature values beside `indices`; None: all ones."""
    labels: str = "labels"
    """Column of class ids."""
    multi_label: bool = False
    """Whether rows may have several labels."""
    leave_out_inputs: bool = False
    """Whether feature ids are class ids that must not be answered: places already visited."""


@dataclass(frozen=True)
class Lists:
    """A column of lists in CSR: row i holds ids[offsets[i]:offsets[i + 1]]."""

    offsets: npt.NDArray[np.int64]
    """Shape (n + 1,)."""
    ids: npt.NDArray[np.int64]
    """All lists one after the other."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of ids of every row, shape (n,), int64."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row of every id, the same shape as `ids`, int64."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int64), self.lengths)


@dataclass(frozen=True)
class _Layout:
    """What differs between the sets under `MANYWORLDS_DATA`."""

    train: str = "train"
    test: str = "test"
    text: tuple[str, ...] = ()
    indices: str | None = None
    values: str | None = None
    multi_label: bool = False
    leave_out_inputs: bool = False


_LAYOUTS: Mapping[str, _Layout] = {
    "tldr": _Layout(text=("text",)),
    "omw": _Layout(text=("text",), multi_label=True),
    # Split by source package: no sibling packages with nearly the same text on both sides.
    "debian_depends": _Layout(
        train="train_by_source", test="test_by_source", text=("text",), multi_label=True
    ),
    "diginetica": _Layout(indices="indices", values="values"),
    "gowalla": _Layout(indices="indices", values="values", multi_label=True, leave_out_inputs=True),
    "bibtex": _Layout(indices="indices", values="values", multi_label=True),
}

SMALL_SETS = ("bibtex",)
"""Sets of too few classes for worlds, found if they are asked for."""
SETS = ("api_search", *(name for name in _LAYOUTS if name not in SMALL_SETS))
"""Names of all benchmark sets, in the order of the tables."""


def find_sets(
    names: Iterable[str] = SETS, *, cache: Path = CACHE, build: bool = True
) -> tuple[list[BenchmarkSet], list[str]]:
    """Find sets by name.

    Args:
        names: Which of `SETS` and `SMALL_SETS`, in the order wanted.
        cache: Folder of sets that are built rather than found.
        build: Whether to build what is missing from `cache`, which takes minutes.

    Returns:
        The sets that are there, and one sentence for each that is left out.

    Raises:
        ValueError: A name that is in neither.
    """
    names = list(names)
    if unknown := sorted(set(names) - {*SETS, *SMALL_SETS}):
        raise ValueError(f"sets: expected some of {', '.join(SETS)}; found {', '.join(unknown)}")
    found: list[BenchmarkSet] = []
    left_out: list[str] = []
    for name in names:
        try:
            found.append(_api_search(cache, build) if name == "api_search" else _ready(name))
        except FileNotFoundError as error:
            left_out.append(f"{name}: left out; {error}")
    return found, left_out


def read_lists(folder: Path, column: str) -> Lists:
    """Read a column of integer lists, or of single integers, from all shards of a folder.

    Args:
        folder: Folder of Parquet shards, read in the order of their names.
        column: Column of integers or lists of integers; a null list counts as empty.

    Returns:
        The column in CSR, int64.
    """
    chunks = read_column(folder, column).chunks
    return Lists(
        offsets=np.concatenate([[0], np.cumsum(_joined([_lengths(c) for c in chunks]))]),
        ids=_joined([_flat(c).to_numpy(zero_copy_only=False) for c in chunks]),
    )


def read_column(folder: Path, column: str) -> pa.ChunkedArray:
    """Read one column from all shards of a folder, in the order of their names."""
    shards = sorted(folder.glob("*.parquet"))
    tables = [pq.read_table(shard, columns=[column]) for shard in shards]
    return pa.concat_tables(tables).column(column)


def _ready(name: str) -> BenchmarkSet:
    """Describe a set under `MANYWORLDS_DATA`."""
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise FileNotFoundError(
            f"expected the environment variable {DATA_VARIABLE} to name the folder of the"
            " development data, found it unset; set it"
        )
    layout = _LAYOUTS[name]
    folder = Path(root) / name
    _expect(name, [folder / "stats.json", folder / layout.train, folder / layout.test])
    names = folder / "labels.parquet"
    return BenchmarkSet(
        name=name,
        train=folder / layout.train,
        test=folder / layout.test,
        classes=_classes(folder / "stats.json"),
        class_names=names if names.exists() else None,
        text=layout.text,
        indices=layout.indices,
        values=layout.values,
        multi_label=layout.multi_label,
        leave_out_inputs=layout.leave_out_inputs,
    )


def _api_search(cache: Path, build: bool) -> BenchmarkSet:
    """Describe the set of installed documentation, building it where it is missing."""
    folder = cache / "api_search"
    # The builder writes the statistics last: without them the rest may be incomplete.
    stats = folder / "stats.json"
    if build and not stats.exists():
        # Needs the documented packages, which the peers' environment does not hold.
        from examples.api_search.dataset import build as build_api_search

        build_api_search(folder, progress=lambda line: print(f"api_search: {line}", flush=True))
    _expect("api_search", [stats, folder / "train", folder / "test"])
    return BenchmarkSet(
        name="api_search",
        train=folder / "train",
        test=folder / "test",
        classes=_classes(stats),
        class_names=folder / "labels.parquet",
        text=("text",),
    )


def _expect(name: str, paths: Sequence[Path]) -> None:
    """Raise FileNotFoundError with the names of all paths that are missing."""
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"expected {', '.join(missing)} in the folder {paths[0].parent}, found nothing;"
            f" put the set {name} there"
        )


def _classes(stats: Path) -> int:
    """Return the number of classes that a set's statistics name, as K or in full."""
    found = json.loads(stats.read_text(encoding="utf-8"))
    return int(found["K"] if "K" in found else found["classes"])


def _joined(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Concatenate arrays of integers, of which there may be none, as int64."""
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64, copy=False)


def _is_list(chunk: pa.Array) -> bool:
    return bool(pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type))


def _lengths(chunk: pa.Array) -> npt.NDArray[np.int64]:
    """Return how many ids every row of a chunk has."""
    if not _is_list(chunk):
        return np.asarray(chunk.is_valid().to_numpy(zero_copy_only=False), np.int64)
    lengths = pc.fill_null(pc.list_value_length(chunk), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), np.int64)


def _flat(chunk: pa.Array) -> pa.Array:
    """Return a chunk's ids one after the other, null rows left out."""
    # flatten() and not .values: only the former honours the offset of a slice.
    return chunk.flatten() if _is_list(chunk) else chunk.drop_null()
