"""A merged ensemble that answers: the k best classes of new queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.ensemble import memory, on_device
from orchestrator.ensemble.artefact import CLASSES, LOOKUP, Artefact, Member, open_artefact
from orchestrator.ensemble.candidates import candidates
from orchestrator.ensemble.combiners import Combiner, combiner
from orchestrator.ensemble.lookup import BucketLookup, open_lookup
from orchestrator.ensemble.names import ClassNames, class_names
from orchestrator.ensemble.pruned import exact, pruned
from orchestrator.ensemble.retrieval import ClassLists, check_lists, full
from workers.classifier import BucketPredictor, choose_device
from workers.errors import ConfigError, DataError, StorageError
from workers.features import Featurizer
from workers.precision import precision_of
from workers.shards import check_rows, check_type
from workers.threads import Pool

QUERIES = 256
"""Queries whose bucket scores are held at a time, R * B floats each,"""
SCORES_BYTES = 1 << 30
"""or fewer, if they would take more bytes than that."""


Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Class ids and scores."""

MODES: dict[str, Callable[..., Found]] = {
    "exact": exact,
    "full": full,
    "pruned": pruned,
    "candidates": candidates,
}
"""How the best classes are found."""


@dataclass(frozen=True)
class Prediction:
    """The answers to n queries, best first."""

    ids: NDArray[np.int64]
    """(n, k) class ids; -1 where fewer than k classes are allowed."""
    scores: NDArray[np.float32]
    """(n, k), as the combiner defines them; -inf where there is no class."""
    names: list[list[str]] | None
    """The answers' names, where classes have names."""


class Ensemble:
    """R worlds, merged.

        ensemble = Ensemble.load("runs/demo")
        ensemble.predict(["cumulative product along an axis"], k=3).names

    Args:
        artefact: the opened folder.
        threads: compute threads; 0: one for each CPU that the process may use.
        device: `auto`, `cpu` or `cuda`.
    """

    def __init__(self, artefact: Artefact, *, threads: int = 0, device: str = "auto") -> None:
        self.artefact = artefact
        self.manifest = artefact.manifest
        self.config = artefact.manifest.config
        self.pool = Pool(threads)
        self._device = choose_device(device)
        memory.check(self.manifest, self._device, artefact.uri, memory.available_bytes())
        self._classifiers = [self._open(member) for member in self.manifest.members]
        if artefact.verified:
            # Read now, not with the first answer.
            _ = self.names

    @staticmethod
    def load(uri: str, *, verify: str = "size", threads: int = 0, device: str = "auto") -> Ensemble:
        """Open the ensemble at `uri`, or the current one of the run there.

        Raises:
            StorageError: if there is none, or it is cut short or altered, or takes more memory
                than there is.
            SchemaError: if another version wrote it.
        """
        return Ensemble(open_artefact(uri, verify=verify), threads=threads, device=device)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.config.data.classes

    @property
    def worlds(self) -> int:
        """Number of worlds in the ensemble."""
        return len(self.manifest.members)

    @cached_property
    def names(self) -> ClassNames | None:
        """The classes' names, or None where they have none."""
        if not self.manifest.has_names:
            return None
        storage, folder = self.artefact.storage, self.artefact.folder
        data = storage.read_committed(folder, CLASSES, self.artefact.commit)
        where = storage.where(f"{folder}/{CLASSES}")
        try:
            # Not by `read_table`: that reads in Arrow's threads whatever it is told, and they abort
            # a process that ends before they let go of Python's memory (apache/arrow#34314).
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                table = file.read(use_threads=False)
            return class_names(table, self.classes, where)
        except (DataError, OSError, pa.ArrowException) as error:
            raise StorageError(
                f"{where}: expected the names of classes, found: {error}; merge the run again"
            ) from error

    @cached_property
    def lookup(self) -> BucketLookup:
        """Where each class is among the worlds' buckets."""
        partitions = self.manifest.partitions()
        stored = None
        if self.manifest.lookup == "stored":
            path = self.artefact.storage.local(f"{self.artefact.folder}/{LOOKUP}")
            stored = open_lookup(path, partitions, self.pool)
        return BucketLookup(partitions, self.pool, stored=stored)

    @cached_property
    def _device_lookup(self) -> on_device.DeviceLookup:
        free, _ = torch.cuda.mem_get_info(self._device)
        return on_device.DeviceLookup(self.lookup, self._device, most_bytes=free // 4)

    def combiner(self, name: str | None = None) -> Combiner:
        """Return the combiner of that name; None: the ensemble's own."""
        return combiner(name or self.manifest.combiner)

    def predict(
        self,
        queries: Sequence[str] | pa.Table,
        k: int = 10,
        *,
        combiner: str | None = None,
        worlds: int | None = None,
        mode: str = "exact",
        leave_out: ClassLists | None = None,
        keep_to: ClassLists | None = None,
    ) -> Prediction:
        """Return the k best of all K classes for each query.

        Args:
            queries: texts, where the ensemble has one text column; else a table with
                the input columns of training.
            k: classes a query.
            combiner: `mean`, `log`, `min` or `median`; None: the ensemble's own.
            worlds: ask only the first of them; None: all.
            mode: `full` looks at every class, `pruned` only at those that may be among the best;
                both give the same answers, and `exact` takes the quicker one. `candidates` is
                nearly always right and takes about the same time for every query.
            leave_out: classes that a query must not get (already bought, say).
            keep_to: classes that a query may get only (in stock, say).

        Raises:
            DataError: if queries lack a column or hold nulls, or k, worlds or lists do not fit.
            ConfigError: for an unknown combiner or mode.
        """
        chosen = self.combiner(combiner)
        check_mode(mode)
        table = self.table(queries)
        for lists in (leave_out, keep_to):
            check_lists(lists, table.num_rows, self.classes)
        parts = [
            self.best(
                self.scores(probabilities, chosen),
                k,
                chosen,
                mode=mode,
                leave_out=leave_out and leave_out.of(start, stop),
                keep_to=keep_to and keep_to.of(start, stop),
            )
            for start, stop, probabilities in self.probabilities(table, worlds)
        ]
        ids = np.concatenate([np.empty((0, k), np.int64), *(part[0] for part in parts)])
        scores = np.concatenate([np.empty((0, k), np.float32), *(part[1] for part in parts)])
        return Prediction(ids, scores, self.names.of(ids) if self.names else None)

    def scores(
        self, probabilities: Sequence[Tensor], combiner: Combiner
    ) -> NDArray[np.float32] | Tensor:
        """Return what `best` looks up (R, n, B), from what `probabilities` yields.

        The first r of its worlds are those of an ensemble of r.
        """
        if self._device == "cpu":
            return combiner.transform(np.stack([part.numpy() for part in probabilities]))
        return on_device.transformed(probabilities, combiner)

    def best(
        self,
        scores: NDArray[np.float32] | Tensor,
        k: int,
        combiner: Combiner,
        *,
        mode: str = "exact",
        leave_out: ClassLists | None = None,
        keep_to: ClassLists | None = None,
    ) -> Found:
        """Return the k best classes (n, k) of n queries and their scores; see `Prediction`.

        Args:
            scores: of the first worlds, from `scores`.
            k: classes a query.
            combiner: from `combiner`.
            mode: as for `predict`.
            leave_out: classes that a query must not get.
            keep_to: classes that a query may get only.
        """
        lists: dict[str, Any] = {"leave_out": leave_out, "keep_to": keep_to}
        if isinstance(scores, np.ndarray):
            return MODES[mode](scores, self.lookup, k, combiner, self.pool, **lists)
        # To look at all classes is quick enough there, so that nothing prunes.
        search = on_device.candidates if mode == "candidates" else on_device.full
        return search(scores, self._device_lookup, k, combiner, **lists)

    def probabilities(
        self, table: pa.Table, worlds: int | None = None
    ) -> Iterator[tuple[int, int, list[Tensor]]]:
        """Yield (start, stop, each world's bucket probabilities (n, B)) over a table's rows."""
        self.check_worlds(worlds)
        asked = self._classifiers[:worlds]
        # All worlds' scores of these queries are held at a time, and copied once.
        one = 4 * self.config.partition.buckets * len(asked)
        size = max(1, min(QUERIES, SCORES_BYTES // one))
        for start in range(0, table.num_rows, size):
            rows = table.slice(start, size)
            yield (
                start,
                start + rows.num_rows,
                [
                    predictor.probabilities(featurizer.batch(rows, labels=False))
                    for featurizer, predictor in asked
                ],
            )

    def table(self, queries: Sequence[str] | pa.Table) -> pa.Table:
        """Return queries as a table with the input columns of training, checked."""
        data = self.config.data
        if not isinstance(queries, pa.Table):
            if data.columns(labels=False) != list(data.text[:1]):
                raise DataError(
                    f"expected a table with columns {', '.join(data.columns(labels=False))},"
                    " found texts; give a pyarrow.Table"
                )
            queries = pa.table({data.text[0]: _texts(queries)})
        missing = [n for n in data.columns(labels=False) if n not in queries.column_names]
        if missing:
            raise DataError(
                f"queries: expected a column '{missing[0]}', found only"
                f" {', '.join(queries.column_names)}"
            )
        for name in data.columns(labels=False):
            check_type(name, queries.schema.field(name).type, data, "queries")
        width = self.manifest.dense_width
        if width is not None:
            found = queries.schema.field(data.dense).type.list_size
            if found != width:
                raise DataError(
                    f"queries: expected vectors of {width:,} numbers in column '{data.dense}', as"
                    f" in training, found {found:,}; take what made those of training"
                )
        check_rows(queries, data, "queries", 0, labels="none")
        return queries

    def check_worlds(self, worlds: int | None) -> None:
        """Raise `DataError` if the ensemble has not that many worlds."""
        if worlds is not None and not 1 <= worlds <= self.worlds:
            raise DataError(f"worlds: expected 1 to {self.worlds}, found {worlds}")

    def _open(self, member: Member) -> tuple[Featurizer, BucketPredictor]:
        path = self.artefact.storage.local(f"{self.artefact.folder}/{member.file}")
        try:
            parameters = load_file(path, device=self._device)
        except SafetensorError as error:
            raise StorageError(
                f"{path}: expected a safetensors file, found: {error}; merge the run again"
            ) from error
        wanted = self.manifest.weights
        if precision_of(parameters) != wanted:
            kinds = sorted({str(tensor.dtype).partition(".")[2] for tensor in parameters.values()})
            raise StorageError(
                f"{path}: expected weights in {wanted}, found {', '.join(kinds)};"
                " merge the run again"
            )
        if self.artefact.verified:
            _check_finite(parameters, path)
        config = self.config
        featurizer = Featurizer(config.data, config.features, config.seed, member.world)
        return featurizer, BucketPredictor(config, parameters, device=self._device, pool=self.pool)


def check_mode(mode: str) -> None:
    """Raise `ConfigError` if there is no such mode."""
    if mode not in MODES:
        raise ConfigError(f"mode: expected one of {', '.join(MODES)}, found {mode}")


def _check_finite(parameters: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in parameters.items():
        # Not a number is both the least and the greatest.
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not torch.isfinite(torch.stack(tensor.aminmax())).all()
        ):
            raise StorageError(
                f"{path}: expected finite weights, found others in {name}; merge the run again"
            )


def _texts(queries: Sequence[str]) -> pa.Array:
    if isinstance(queries, str):
        raise DataError(
            f"queries: expected a list of texts, found one text {queries[:40]!r}; give [text]"
        )
    try:
        return pa.array(list(queries), pa.large_string())
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise DataError(f"queries: expected texts, found something else: {error}") from error
