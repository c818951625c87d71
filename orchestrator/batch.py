"""Predictions for a whole Parquet data set: a file of answers for each shard.

    predictions.json     what is asked of which ensemble and data
    part-00000.parquet … the answers for the first shard, …, row by row

A part appears when it is whole. The same job on the same folder goes on with
the parts that are missing; another job is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.ensemble.ensemble import MODES, Ensemble
from orchestrator.inputs import absolute
from workers.errors import ConfigError, DataError, RunError, StorageError
from workers.shards import ShardSet, Slice, check_rows
from workers.storage import Storage

JOB = "predictions.json"
ROWS = 4096
"""Rows that are read and answered at a time."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """What is asked."""

    ensemble: str
    """A run or an ensemble; any URI."""
    data: str
    """Parquet rows with the input columns of training; any URI."""
    out: str
    """The folder of the answers; any URI that all machines reach."""
    k: int = 10
    """Classes a row."""
    combiner: str | None = None
    """None: the ensemble's own."""
    mode: str = "exact"
    """As of `Ensemble.predict`."""
    keep: tuple[str, ...] = ()
    """Columns of the data that are copied to the answers."""


@dataclass(frozen=True)
class BatchSummary:
    """How a job ended."""

    rows: int
    """Of all parts."""
    parts: int
    found: int
    """Parts that were there before."""


class ShardPredictor:
    """Answers the rows of one shard after the other, on one machine.

    Args:
        job: what is asked.
    """

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._storage = Storage(job.out)
        told = self._storage.read_json(JOB)
        self._shards = ShardSet(job.data, known=told["data"])
        # That of the folder's other parts, whatever the run serves by now.
        self._ensemble = Ensemble.load(told["ensemble"])

    def __call__(self, shard: int) -> int:
        """Write the part of a shard, and return its rows.

        Raises:
            DataError: if its rows cannot be asked about.
            StorageError: if it cannot be read, or its part not be written.
        """
        rows = 0

        def write(path: Path) -> None:
            nonlocal rows
            with pq.ParquetWriter(path, self._schema(shard), write_page_checksum=True) as file:
                for table in self._tables(shard):
                    file.write_table(self._answers(table, file.schema))
                    rows += table.num_rows

        self._storage.write_file(part(shard), write)
        return rows

    def _tables(self, shard: int) -> Iterator[pa.Table]:
        inputs = self._ensemble.config.data.columns(labels=False)
        columns = list(dict.fromkeys([*inputs, *self._job.keep]))
        for group in self._shards.groups:
            if group.shard == shard:
                first, where = 0, self._shards.where(group)
                for batch in self._shards.read(Slice(shard, group.group, 0, ROWS), columns):
                    table = pa.Table.from_batches([batch]).select(columns)
                    check_rows(table, self._ensemble.config.data, where, first, labels="none")
                    first += table.num_rows
                    yield table

    def _answers(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        job = self._job
        found = self._ensemble.predict(table, k=job.k, combiner=job.combiner, mode=job.mode)
        lists = pa.FixedSizeListArray.from_arrays
        columns = [
            *(table.column(name) for name in job.keep),
            lists(pa.array(found.ids.reshape(-1)), job.k),
            lists(pa.array(found.scores.reshape(-1)), job.k),
        ]
        if found.names is not None:
            columns.append(pa.array(found.names, pa.list_(pa.string())))
        return pa.Table.from_arrays(columns, schema=schema)

    def _schema(self, shard: int) -> pa.Schema:
        kept = [self._shards.schemas[shard].field(name) for name in self._job.keep]
        answers = [
            pa.field("classes", pa.list_(pa.int64(), self._job.k)),
            pa.field("scores", pa.list_(pa.float32(), self._job.k)),
        ]
        if self._ensemble.names is not None:
            answers.append(pa.field("names", pa.list_(pa.string())))
        return pa.schema([*kept, *answers])


def predict_all(
    job: BatchJob, *, address: str = "auto", progress: Progress = lambda done, parts: None
) -> BatchSummary:
    """Answer all rows of a data set, or go on with it.

    Args:
        job: what is asked.
        address: of the Ray cluster, as `cluster.address`; `none`: in this process.
        progress: told how many parts of how many are done.

    Raises:
        ConfigError: for an unknown combiner or mode.
        DataError: if rows cannot be asked about.
        RunError: if the folder holds another job, or the cluster cannot be reached.
        StorageError: if something cannot be read or written.
    """
    # Other machines have other working folders.
    job = replace(
        job, ensemble=Storage(job.ensemble).uri, data=absolute(job.data), out=Storage(job.out).uri
    )
    storage, shards = Storage(job.out), _begun(job)
    numbers = sorted({group.shard for group in shards.groups})
    left = [number for number in numbers if not storage.exists(part(number))]
    done = found = len(numbers) - len(left)
    progress(done, len(numbers))
    for _ in _predicted(job, left, address):
        done += 1
        progress(done, len(numbers))
    return BatchSummary(rows=shards.rows, parts=len(numbers), found=found)


def part(shard: int) -> str:
    """Return the name of a shard's part."""
    return f"part-{shard:05d}.parquet"


def _predicted(job: BatchJob, shards: list[int], address: str) -> Iterator[int]:
    """Yield the rows of each part as it is written."""
    if not shards:
        return
    if address == "none":
        yield from map(ShardPredictor(job), shards)
        return
    from orchestrator.executors.ray_tasks import run_tasks

    yield from run_tasks(partial(ShardPredictor, job), shards, address, whole_machines=True)


def _begun(job: BatchJob) -> ShardSet:
    """Write down what is asked, or check that it is what the folder is of."""
    if job.k < 1:
        raise DataError(f"k: expected at least 1 class a row, found {job.k}")
    if job.mode not in MODES:
        raise ConfigError(f"mode: expected one of {', '.join(MODES)}, found {job.mode}")
    storage, ensemble = Storage(job.out), Ensemble.load(job.ensemble)
    combiner = ensemble.combiner(job.combiner).name
    asked: dict[str, Any] = {
        "digest": ensemble.manifest.digest,
        "k": job.k,
        "combiner": combiner,
        "mode": job.mode,
        "keep": list(job.keep),
    }
    if not storage.exists(JOB):
        shards = ShardSet(job.data)
        _check_columns(job, shards, ensemble)
        told = {**asked, "ensemble": ensemble.artefact.uri, "data": shards.fingerprint()}
        storage.write_json(JOB, told)
        return shards
    told = storage.read_json(JOB)
    shards = ShardSet(job.data)
    try:
        others = [key for key in asked if told[key] != asked[key]]
        same = told["data"] == shards.fingerprint()
    except KeyError as error:
        raise StorageError(
            f"{storage.where(JOB)}: expected what was asked, found a file without {error};"
            " give another folder by out="
        ) from error
    if others:
        differ = ", ".join(f"{key}={told[key]} (now {asked[key]})" for key in others)
        raise RunError(
            f"{job.out}: expected the answers of this job, or none, found those of another:"
            f" {differ}; give another folder by out="
        )
    if not same:
        raise RunError(
            f"{job.data}: expected the shards that {job.out} has the answers of, found others,"
            " fewer or more; restore them, or give another folder by out="
        )
    return shards


def _check_columns(job: BatchJob, shards: ShardSet, ensemble: Ensemble) -> None:
    shards.check_columns(ensemble.config.data, labels=False)
    if twice := [name for name in set(job.keep) if job.keep.count(name) > 1]:
        raise ConfigError(f"keep: expected each column once, found {twice[0]} twice")
    taken = {"classes", "scores", "names"} & set(job.keep)
    if taken:
        raise ConfigError(
            f"keep: expected columns of other names than those of the answers, found"
            f" {', '.join(sorted(taken))}; rename them"
        )
    for path, schema in zip(shards.paths, shards.schemas, strict=True):
        if missing := [name for name in job.keep if name not in schema.names]:
            raise DataError(
                f"{path}: expected a column '{missing[0]}' to keep, found only"
                f" {', '.join(schema.names)}"
            )
