"""Omikuji and PECOS XR-Linear, with their defaults, on a benchmark set.

    python -m benchmarks.peers --set tldr --peer omikuji --out tldr-omikuji.json

Both are trees of linear classifiers: Omikuji grows three of them (Parabel,
Prabhu et al., WWW 2018), PECOS one over hierarchical k-means of the classes'
mean features (XR-Linear, Yu et al., JMLR 2022). Both read the same matrix:

- Text: word 1-2-grams, and 4-grams of characters within words (scikit-learn's
  `char_wb`, so that words shorter than four characters count); of each the
  1,000,000 most frequent, logarithmic TF-IDF, rows of unit length; side by
  side, rows again of unit length. Of twelve such choices (one TF-IDF over both,
  4-grams across words, plain counts, n-grams of two rows and more) this one gave
  both peers their highest P@1 on the set `tldr`. Omikuji has no seed: its P@1
  there moved by 0.4 points from run to run.
- Feature ids: the given values, rows of unit length.

It runs in an environment of its own, because libpecos needs numpy below 2 while
newer releases of pyarrow need numpy 2: `benchmarks/constraints.txt` pins what
fits together.

The result is one JSON file. Metrics are fractions, means over the test rows
that have labels: `P@k` hits in the top k / k, `R@k` hits / labels, `NDCG@k`
with an ideal of min(k, labels) hits, `MRR@k` 1 / rank of the first hit. Peak
memory is that of the whole process up to the end of each phase. Seconds are
wall time; CPU seconds, of all threads, depend less on what else is running.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.datasets import CACHE, SETS, BenchmarkSet, Lists, find_sets, read_column, read_lists

SCHEMA = 1
TOP = 100
"""Predictions that are kept for every test row."""
BEAM = 10
VOCABULARY = 1_000_000
"""Most frequent n-grams kept of words and of characters each: bounds the peers' memory."""
WRITE_ROWS = 20_000
PACKAGES = ("omikuji", "libpecos", "scikit-learn", "scipy", "numpy", "pyarrow")

Csr = Any  # scipy.sparse.csr_matrix: scipy has no types and is not in every environment
Ids = npt.NDArray[np.int64]


class Peer(Protocol):
    """One classifier to compare with."""

    settings: str

    def train(self, features: Csr, labels: Lists, classes: int, clock: Clock) -> None:
        """Train on rows of float32 features and their labels."""

    def top(self, features: Csr, counts: Ids) -> Ids:
        """Return each row's `counts[row]` best classes, best first, padded with -1."""


@dataclass
class Clock:
    """Wall time, CPU time and peak memory of the phases of a benchmark."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield
        self.seconds[name] = round(time.perf_counter() - wall, 2)
        self.cpu_seconds[name] = round(_cpu_seconds() - cpu, 2)
        self.peak_rss_bytes[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


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
        targets = _csr(ones, labels.ids, labels.offsets, shape).tocsc()
        with clock.phase("train"):
            embedding = LabelEmbeddingFactory.create(targets, features, method="pifa")
            clusters = Indexer.gen(embedding, threads=self.threads)
            self.model = XLinearModel.train(features, targets, C=clusters, threads=self.threads)

    def top(self, features: Csr, counts: Ids) -> Ids:
        """Ask for as many classes as the row that wants most, in one batch."""
        width = int(counts.max(initial=0))
        answer = self.model.predict(features, beam_size=BEAM, only_topk=width, threads=self.threads)
        return sorted_rows(answer, width)


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


def _csr(data: Any, columns: Any, offsets: Any, shape: tuple[int, int]) -> Csr:
    """Return a float32 CSR matrix whose rows are sorted, as PECOS needs them."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((data, columns, offsets), shape=shape)
    matrix.sum_duplicates()
    return matrix.astype(np.float32)


def text_features(train: Sequence[str], test: Sequence[str]) -> tuple[Csr, Csr]:
    """Return the TF-IDF matrices of training and test texts, float32, rows of unit length."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    shared = {"sublinear_tf": True, "max_features": VOCABULARY, "dtype": np.float32}
    weighers = [
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **shared),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), **shared),
    ]
    fitted = _side_by_side([weigher.fit_transform(train) for weigher in weighers])
    return fitted, _side_by_side([weigher.transform(test) for weigher in weighers])


def _side_by_side(matrices: Sequence[Csr]) -> Csr:
    """Return float32 CSR matrices as one, with sorted rows of unit length."""
    from scipy.sparse import hstack
    from sklearn.preprocessing import normalize

    stacked = hstack(matrices, format="csr")
    stacked.sort_indices()
    return normalize(stacked, copy=False)


def id_features(chosen: BenchmarkSet) -> tuple[Csr, Csr]:
    """Return the matrices of a set's feature ids and values, float32, rows of unit length."""
    from sklearn.preprocessing import normalize

    assert chosen.indices is not None
    lists = [read_lists(folder, chosen.indices) for folder in (chosen.train, chosen.test)]
    width = 1 + max(int(part.ids.max(initial=0)) for part in lists)
    train, test = (
        _csr(_values(folder, chosen, part), part.ids, part.offsets, (len(part.lengths), width))
        for folder, part in zip((chosen.train, chosen.test), lists, strict=True)
    )
    return normalize(train), normalize(test)


def _values(folder: Path, chosen: BenchmarkSet, lists: Lists) -> npt.NDArray[np.float32]:
    """Return the feature values beside a set's feature ids."""
    if chosen.values is None:
        return np.ones(len(lists.ids), np.float32)
    chunks = read_column(folder, chosen.values).chunks
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate(parts).astype(np.float32)


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


def top_without(peer: Peer, features: Csr, left_out: Lists | None, classes: int) -> Ids:
    """Return each row's `TOP` best classes that are not among those to leave out.

    A row with v classes to leave out is asked for v more, so nothing is lost by dropping them.
    """
    counts = np.full(features.shape[0], TOP, np.int64)
    if left_out is None:
        return peer.top(features, counts)
    best = peer.top(features, counts + left_out.lengths)
    dropped = (best < 0) | _contains(left_out, best, classes)
    order = np.argsort(dropped, axis=1, kind="stable")[:, :TOP]
    best[dropped] = -1
    return np.take_along_axis(best, order, axis=1)


def _contains(lists: Lists, best: Ids, classes: int) -> npt.NDArray[np.bool_]:
    """Tell which of each row's classes are in that row's list; -1 never is."""
    rows = np.arange(len(best), dtype=np.int64)[:, None]
    keys = lists.rows * classes + lists.ids
    return np.isin(rows * classes + best, keys) & (best >= 0)


def metrics(best: Ids, labels: Lists, classes: int) -> dict[str, float]:
    """Score ranked classes, shape (n, TOP), against the labels of the n rows."""
    kept = labels.lengths > 0
    hits = _contains(labels, best, classes)[kept].astype(np.float64)
    counts = labels.lengths[kept].astype(np.float64)
    scores = {f"P@{k}": hits[:, :k].sum(axis=1) / k for k in (1, 5)}
    scores |= {f"R@{k}": hits[:, :k].sum(axis=1) / counts for k in (10, 20, 100)}
    gains = 1 / np.log2(np.arange(2, 22))
    ideal = np.cumsum(gains)[np.minimum(counts, 20).astype(np.int64) - 1]
    scores["NDCG@20"] = hits[:, :20] @ gains / ideal
    scores["MRR@20"] = (hits[:, :20] / np.arange(1, 21)).max(axis=1)
    return {name: round(float(score.mean()), 5) for name, score in scores.items()}


def measure(chosen: BenchmarkSet, name: str, threads: int) -> dict[str, Any]:
    """Train a peer on a set, test it, and return what is written as JSON."""
    clock, peer = Clock(), PEERS[name](threads)
    labels, truth = (read_lists(part, chosen.labels) for part in (chosen.train, chosen.test))
    with clock.phase("features"):
        train, test = _features(chosen)
    peer.train(train, labels, chosen.classes, clock)
    left_out = None
    if chosen.leave_out_inputs and chosen.indices is not None:
        left_out = read_lists(chosen.test, chosen.indices)
    with clock.phase("predict"):
        best = top_without(peer, test, left_out, chosen.classes)
    return {
        "schema": SCHEMA,
        "set": chosen.name,
        "peer": name,
        "settings": peer.settings,
        "metrics": metrics(best, truth, chosen.classes),
        "inputs_left_out": left_out is not None,
        "classes": chosen.classes,
        "rows": {"train": train.shape[0], "test": test.shape[0]},
        "features": {"width": train.shape[1], "a_row": round(train.nnz / train.shape[0], 1)},
        "threads": threads,
        "cpus": os.cpu_count(),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "peak_rss_bytes": clock.peak_rss_bytes,
        "packages": {package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
    }


def _features(chosen: BenchmarkSet) -> tuple[Csr, Csr]:
    """Return the training and the test matrix of a set."""
    if chosen.indices is not None:
        return id_features(chosen)
    return text_features(_texts(chosen.train, chosen.text), _texts(chosen.test, chosen.text))


def _texts(folder: Path, columns: Sequence[str]) -> list[str]:
    """Return the texts of all rows, those of several columns joined by spaces."""
    texts = [read_column(folder, column).combine_chunks().fill_null("") for column in columns]
    joined: list[str] = pc.binary_join_element_wise(*texts, " ").to_pylist()
    return joined


def main() -> None:
    """Run one peer on one set and write its result."""
    parser = argparse.ArgumentParser(description="Measure a peer on a benchmark set.")
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder that holds api_search")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    sets, left_out = find_sets([arguments.set], cache=arguments.cache, build=False)
    if not sets:
        parser.exit(1, left_out[0] + "\n")
    result = measure(sets[0], arguments.peer, arguments.threads)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
