"""A job from raw files to shards, which goes on where it was left.

OUT/
  prepare.json           what is prepared
  train/part-00000.parquet …, validation/, test/
  classes.parquet        id, name, count; not where `classes` names those of an earlier job
  aside.parquet          rows that could not be used, with the reason
  summary.json           what there was; written last
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.inputs import absolute
from orchestrator.prepare import layout
from orchestrator.prepare.config import CLASSES, WORK, PrepareConfig
from orchestrator.prepare.rows import ASIDE
from orchestrator.prepare.sources import Source
from orchestrator.prepare.stages import SPLITS, Stages
from orchestrator.words import plural
from workers.errors import ConfigError, DataError, RunError, StorageFull
from workers.storage import Storage

JOB, SUMMARY, ASIDE_FILE = "prepare.json", "summary.json", "aside.parquet"
_FEW_BYTES = 2 << 30
"""Of files that are looked through sooner here than other processes start."""

Work = Callable[[int], int]
Progress = Callable[[str, int, int], None]
"""Told the step, how many of its tasks are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a job made."""

    rows: dict[str, int]
    """By split."""
    classes: int
    """K: `data.classes` of a run."""
    rows_read: int
    set_aside: int
    """Rows that could not be used, in aside.parquet."""
    reasons: dict[str, int]
    """How many of them for each reason, the most frequent first."""
    without_class: int
    """Rows all of whose classes are left out: too few rows have them, or they are not known."""
    histogram: dict[str, int]
    """How many classes have from so many rows on, to less than the next: powers of two."""


class StageWorker:
    """Does the tasks of one step, in any process.

    Args:
        config: of the job, which is written down in its folder.
        step: a method of `Stages`.
        given: what it takes beside a task's number.
    """

    def __init__(self, config: PrepareConfig, step: str, given: tuple[Any, ...] = ()) -> None:
        storage, source = Storage(config.out), Source(config)
        stages = Stages(config, source, storage)
        self._work: Callable[..., None] = getattr(stages, step)
        self._given = given

    def __call__(self, task: int) -> int:
        """Do a task; return 1."""
        self._work(task, *self._given)
        return 1


def prepare(
    config: PrepareConfig,
    *,
    address: str = "auto",
    progress: Progress = lambda step, done, tasks: None,
) -> Summary:
    """Turn raw files into shards, or go on with it.

    Args:
        config: what is prepared.
        address: of the Ray cluster, as `cluster.address`; `none`: in this process.
        progress: told how far it is.

    Raises:
        ConfigError: for settings that cannot work.
        DataError: if there is nothing to prepare.
        RunError: if the folder holds another job, or the cluster cannot be reached.
        StorageError: if something cannot be read or written; `StorageFull` if there is no room.
    """
    if not config.out:
        raise ConfigError("out: expected the folder to write, found nothing")
    # Other machines have other working folders.
    config = replace(
        config,
        source=absolute(config.source),
        classes=config.classes and absolute(config.classes),
        out=Storage(config.out).uri,
    )
    storage, source = Storage(config.out), Source(config)
    if any(source.reads(storage.where(name)) for name in (JOB, SUMMARY, ASIDE_FILE, CLASSES)):
        raise ConfigError(
            f"out: expected another folder than that of the source, found {config.out}; what is"
            " written there would be read as rows"
        )
    try:
        _agree(config, source, storage)
        if storage.exists(SUMMARY):
            _tidy(storage)
            return _read_summary(storage)
        if address == "none":
            return _Job(config, source, storage, address, progress).run()
        from orchestrator.executors import cluster

        # One for all steps.
        with cluster.connected(address):
            return _Job(config, source, storage, address, progress).run()
    except StorageFull as error:
        raise StorageFull(f"{error}; the same command carries on where it was left") from error


class _Job:
    # The tasks of a job that are not done yet, and what it all came to.

    def __init__(
        self,
        config: PrepareConfig,
        source: Source,
        storage: Storage,
        address: str,
        progress: Progress,
    ) -> None:
        self._config = config
        self._source = source
        self._storage = storage
        self._stages = Stages(config, source, storage)
        self._address = address
        self._progress = progress

    def run(self) -> Summary:
        """Do what is left of all steps."""
        if not self._storage.exists(layout.LAYOUT):
            self._cut()
        self._layout = layout.read(self._storage)
        pieces, parts = len(self._layout.pieces), self._layout.parts
        if not pieces:
            raise self._no_rows()
        self._step("read", "rows/", pieces)
        self._step("know", "known/", self._layout.known)
        self._step("count", "classes/", parts)
        classes, firsts = self._classes()
        self._step("number", "numbered/", pieces, firsts)
        self._step("shard", "train/part-", parts)
        if not self._layout.known:
            self._stages.classes()
        summary = self._summary(classes)
        self._storage.write_json(SUMMARY, asdict(summary))
        _tidy(self._storage)
        return summary

    def _cut(self) -> None:
        self._step("unpack", "unpacked/", len(self._source.packed))
        self._step("cut", "cut/", len(self._source.spans))
        layout.write(layout.made(self._config, self._source, self._stages.looks()), self._storage)

    def _step(self, step: str, made: str, tasks: int, *given: Any) -> None:
        """Do the tasks of a step whose files are missing: `made` and their number."""
        left = [
            task
            for task in range(tasks)
            if not self._storage.exists(Stages.path(f"{made}{task:05d}"))
        ]
        done = tasks - len(left)
        if tasks:
            self._progress(step, done, tasks)
        for count in self._done(step, partial(StageWorker, self._config, step, given), left):
            done += count
            self._progress(step, done, tasks)

    def _done(self, step: str, make: Callable[[], Work], tasks: list[int]) -> Iterator[int]:
        if not tasks:
            return
        if self._address == "none" or (step == "cut" and self._bytes(tasks) <= _FEW_BYTES):
            yield from map(make(), tasks)
            return
        from orchestrator.executors.ray_tasks import run_tasks

        yield from run_tasks(make, tasks, self._address, whole_machines=False)

    def _bytes(self, spans: list[int]) -> int:
        return sum(self._source.spans[span].stop - self._source.spans[span].start for span in spans)

    def _classes(self) -> tuple[int, NDArray[np.int64]]:
        """Return how many classes there are, and the first id of each part of them."""
        parts = range(self._layout.parts)
        if self._layout.known:
            known = range(self._layout.known)
            return sum(self._rows(f"known/{i:05d}") for i in known), np.zeros(len(parts), np.int64)
        ends = np.cumsum([self._rows(f"classes/{part:05d}") for part in parts])
        if ends[-1] < 2:
            raise self._no_classes(int(ends[-1]))
        return int(ends[-1]), np.concatenate([[0], ends[:-1]]).astype(np.int64)

    def _no_rows(self) -> DataError:
        files = plural(len(self._source.files), "file")
        return DataError(f"{self._config.source}: expected rows, found none in {files}")

    def _no_classes(self, classes: int) -> DataError:
        reasons = self._gather_aside()
        if not reasons and not self._rows_read():
            return self._no_rows()
        told = ""
        if reasons:
            reason, count = next(iter(reasons.items()))
            told = (
                f"; set aside: {plural(sum(reasons.values()), 'row')}, see"
                f" {self._storage.where(ASIDE_FILE)}, {count:,} of them for: {reason}"
            )
        return DataError(
            f"expected at least 2 classes, found {classes}; look at the labels column and at"
            f" min_count{told}"
        )

    def _rows_read(self) -> int:
        return sum(self._rows(f"rows/{i:05d}") for i in range(len(self._layout.pieces)))

    def _summary(self, classes: int) -> Summary:
        """Return what the job made, and gather what is set aside."""
        reasons = self._gather_aside()
        aside = sum(reasons.values())
        parts = range(self._layout.parts)
        rows = {
            split: sum(self._rows(f"{split}/part-{part:05d}") for part in parts) for split in SPLITS
        }
        read = self._rows_read()
        numbered = sum(self._rows(f"numbered/{i:05d}") for i in range(len(self._layout.pieces)))
        counts = np.zeros(64, np.int64)
        for part in parts:
            with self._stages.open(f"classes/{part:05d}") as file:
                found = file.read(["count"], use_threads=False).column(0).to_numpy()
            counts += np.bincount(np.log2(found).astype(np.int64), minlength=64)
        return Summary(
            rows=rows,
            classes=classes,
            rows_read=read + aside,
            set_aside=aside,
            reasons=reasons,
            without_class=read - numbered,
            histogram={str(1 << power): int(counts[power]) for power in np.flatnonzero(counts)},
        )

    def _gather_aside(self) -> dict[str, int]:
        def tables() -> Iterator[pa.Table]:
            for piece in range(len(self._layout.pieces)):
                with self._stages.open(f"aside/{piece:05d}") as file:
                    yield file.read(use_threads=False)

        reasons: Counter[str] = Counter()

        def write(path: Path) -> None:
            with pq.ParquetWriter(path, ASIDE) as file:
                for table in tables():
                    reasons.update(table.column("reason").to_pylist())
                    file.write_table(table)

        self._storage.write_file(ASIDE_FILE, write)
        return dict(reasons.most_common())

    def _rows(self, name: str) -> int:
        with self._stages.open(name) as file:
            return int(file.metadata.num_rows)


def _agree(config: PrepareConfig, source: Source, storage: Storage) -> None:
    """Write down what is prepared, or check that it is what is there."""
    asked = {**asdict(config), "text": list(config.text), "columns": list(config.columns)}
    told: dict[str, Any] = {"config": asked, "files": dict(source.files)}
    if not storage.exists(JOB):
        # What is wrong with them shall not stay in the folder.
        source.check()
        storage.write_json(JOB, told)
        return
    known = storage.read_json(JOB)
    for what in told:
        if known.get(what) != told[what]:
            difference = _difference(what, known.get(what, {}), told[what])
            raise RunError(
                f"{config.out}: expected what is prepared there to have the same {what}, found"
                f" others: {difference}; give another folder by out=, or remove this one"
            )


def _difference(what: str, there: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the words for the first setting or file that is not the same."""
    names = dict.fromkeys([*now, *there])
    name = next(name for name in names if there.get(name) != now.get(name))
    if what == "config":
        return f"{name}={there.get(name)} there, {now.get(name)} now"
    if name in there and name in now:
        return f"{name} has {there[name]:,} bytes there, {now[name]:,} now"
    return f"{name} is new" if name in now else f"{name} is gone"


def _tidy(storage: Storage) -> None:
    """Remove what a job that is done needs no more, and what killed processes left half written."""
    storage.delete(WORK)
    for path in storage.sizes():
        if storage.is_half_written(path):
            storage.delete(path.rpartition("/")[0])


def _read_summary(storage: Storage) -> Summary:
    values = storage.read_json(SUMMARY)
    values.pop("schema", None)
    return Summary(**values)
