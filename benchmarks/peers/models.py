"""Omikuji and PECOS XR-Linear, with their defaults.

Both are trees of linear classifiers: Omikuji grows three of them (Parabel,
Prabhu et al., WWW 2018), PECOS one over hierarchical k-means of the classes'
mean features (XR-Linear, Yu et al., JMLR 2022). Omikuji has no seed: its P@1 on the set `tldr`
moved by 0.4 points from run to run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.datasets import Lists
from benchmarks.peers.clock import Clock
from benchmarks.peers.features import Csr, csr
from benchmarks.peers.metrics import Ids

BEAM = 10
WRITE_ROWS = 20_000


class Peer(Protocol):
    """One classifier to compare with."""

    settings: str

    def train(self, features: Csr, labels: Lists, classes: int, clock: Clock) -> None:
        """Train on rows of float32 features and their labels."""

    def top(self, features: Csr, counts: Ids) -> Ids:
        """Return each row's `counts[row]` best classes, best first, padded with -1."""

    def save(self, folder: Path) -> None:
        """Write the model there, and go on with it as it is read again to predict."""


class Omikuji:
    """Omikuji with its default hyper-parameters, through its file format."""

    settings = f"defaults: 3 trees, balanced 2-means, hinge loss; beam {BEAM}"

    def __init__(self, threads: int) -> None:
        """Prepare for `threads` threads."""
        self.threads = threads
        self.model: Any = None

    def train(self, features: Csr, labels: Lists, classes: int, clock: Clock) -> None:
        """Write the rows to a temporary file and train on it."""
        import omikuji

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.txt"
            with clock.phase("write"), path.open("wb") as file:
                write_xmc(file, features, labels, classes)
            with clock.phase("train"):
                self.model = omikuji.Model.train_on_data(str(path), n_threads=self.threads)
        self.model.init_prediction_thread_pool(self.threads)

    def top(self, features: Csr, counts: Ids) -> Ids:
        """Ask for one row at a time: the library has no batches."""
        best = np.full((len(counts), int(counts.max(initial=0))), -1, np.int64)
        bounds, columns, values = features.indptr, features.indices, features.data
        for row, count in enumerate(counts.tolist()):
            span = slice(bounds[row], bounds[row + 1])
            pairs = list(zip(columns[span].tolist(), values[span].tolist(), strict=True))
            answer = self.model.predict(pairs, beam_size=BEAM, top_k=count)
            best[row, : len(answer)] = [label for label, _ in answer]
        return best

    def save(self, folder: Path) -> None:
        """See `Peer.save`."""
        self.model.save(str(folder))


class Pecos:
    """PECOS XR-Linear with its default parameters."""

    settings = (
        "defaults: hierarchical k-means of PIFA, 16 splits, leaves of 100, squared hinge loss;"
        f" beam {BEAM}"
    )

    def __init__(self, threads: int) -> None:
        """Prepare for `threads` threads."""
        self.threads = threads
        self.model: Any = None

    def train(self, features: Csr, labels: Lists, classes: int, clock: Clock) -> None:
        """Cluster the classes, then train one linear classifier a node."""
        from pecos.xmc import Indexer, LabelEmbeddingFactory
        from pecos.xmc.xlinear.model import XLinearModel

        ones = np.ones(len(labels.ids), np.float32)
        shape = (features.shape[0], classes)
        targets = csr(ones, labels.ids, labels.offsets, shape).tocsc()
        with clock.phase("train"):
            embedding = LabelEmbeddingFactory.create(targets, features, method="pifa")
            clusters = Indexer.gen(embedding, threads=self.threads)
            self.model = XLinearModel.train(features, targets, C=clusters, threads=self.threads)

    def top(self, features: Csr, counts: Ids) -> Ids:
        """Ask for as many classes as the row that wants most, in one batch."""
        width = int(counts.max(initial=0))
        answer = self.model.predict(features, beam_size=BEAM, only_topk=width, threads=self.threads)
        return sorted_rows(answer, width)

    def save(self, folder: Path) -> None:
        """See `Peer.save`; read again, it is laid out for fast predictions."""
        from pecos.xmc.xlinear.model import XLinearModel

        self.model.save(str(folder))
        self.model = XLinearModel.load(str(folder), is_predict_only=True)


PEERS: Mapping[str, type[Omikuji] | type[Pecos]] = {"omikuji": Omikuji, "pecos": Pecos}


def sorted_rows(scores: Csr, width: int) -> Ids:
    """Return the columns of each row of a sparse matrix, highest value first, padded with -1."""
    lengths = np.diff(scores.indptr).astype(np.int64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((scores.indices, -scores.data, rows))
    best = np.full((len(lengths), width), -1, np.int64)
    places = np.arange(len(rows)) - np.repeat(scores.indptr[:-1], lengths)
    kept = places < width
    best[rows[kept], places[kept]] = scores.indices[order][kept]
    return best


def write_xmc(file: BinaryIO, features: Csr, labels: Lists, classes: int) -> None:
    """Write rows in the text format of the Extreme Classification Repository.

    The first line is `rows features classes`; every other `label,label id:value id:value`.
    """
    rows, width = features.shape
    file.write(f"{rows} {width} {classes}\n".encode())
    for start in range(0, rows, WRITE_ROWS):
        part = slice(start, min(start + WRITE_ROWS, rows))
        file.write(_lines(features[part], _part(labels, part)))


def _part(lists: Lists, rows: slice) -> Lists:
    """Return some of the rows of a column of lists."""
    offsets = lists.offsets[rows.start : rows.stop + 1]
    return Lists(offsets - offsets[0], lists.ids[offsets[0] : offsets[-1]])


def _lines(features: Csr, labels: Lists) -> bytes:
    """Format rows, without a Python loop over them."""
    ids = pa.array(features.indices).cast(pa.string())
    values = pa.array(features.data).cast(pa.string())
    pairs = _join(pc.binary_join_element_wise(ids, values, ":"), features.indptr, " ")
    heads = _join(pa.array(labels.ids).cast(pa.string()), labels.offsets, ",")
    # Omikuji refuses a line that ends in a space, as that of a row without features would.
    lines = pc.ascii_rtrim_whitespace(pc.binary_join_element_wise(heads, pairs, " "))
    return b"".join([_join(lines, [0, len(lines)], "\n")[0].as_buffer().to_pybytes(), b"\n"])


def _join(strings: pa.Array, offsets: Any, separator: str) -> pa.Array:
    """Join the strings of each row."""
    rows = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), strings)
    return pc.binary_join(rows, separator)
