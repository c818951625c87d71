"""The baseline: TF-IDF nearest neighbours, scored exactly over every training row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How good a ranking is, as fractions of the queries; every query has one right class."""

    queries: int
    precision_at_1: float
    recall_at_10: float
    recall_at_100: float


class Neighbours:
    """Cosine similarity to every training row; a class scores as its nearest row does.

    Features are words, pairs of words and character 4-grams inside words, with
    sublinear term frequency; words and characters weigh the same.
    """

    def __init__(self, texts: Sequence[str], labels: Ints) -> None:
        """Fits on training rows: texts (n) and their class ids (n)."""
        order = np.argsort(labels, kind="stable")
        self._classes, self._first = np.unique(labels[order], return_index=True)
        self.vectorizers = [
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32),
            TfidfVectorizer(
                analyzer="char_wb", ngram_range=(4, 4), sublinear_tf=True, dtype=np.float32
            ),
        ]
        rows = [texts[row] for row in order.tolist()]
        parts = [vectorizer.fit_transform(rows) for vectorizer in self.vectorizers]
        self._columns = sparse.csr_matrix(_joined(parts).T)

    def rank(
        self,
        texts: Sequence[str],
        *,
        top: int = 100,
        chunk: int = 128,
        progress: Callable[[str], None] = lambda line: None,
    ) -> Ints:
        """The `top` best class ids of every query, best first: shape (queries, top).

        Ties go to the lower id. Memory is `chunk` x training rows x 4 bytes.
        """
        queries = _joined([vectorizer.transform(texts) for vectorizer in self.vectorizers])
        top = min(top, len(self._classes))
        ranked = np.empty((len(texts), top), dtype=np.int64)
        for at in range(0, len(texts), chunk):
            products = (queries[at : at + chunk] @ self._columns).toarray()
            scores = np.maximum.reduceat(products, self._first, axis=1)
            ranked[at : at + chunk] = self._classes[_best(scores, top)]
            if (at // chunk) % 16 == 15:
                progress(f"neighbours of {min(at + chunk, len(texts)):,} of {len(texts):,} queries")
        return ranked


def scores(ranked: Ints, labels: Ints) -> Scores:
    """Scores of ranked class ids (n, top) against the one right class of each query (n)."""
    hits = ranked == labels[:, None]
    return Scores(
        queries=len(labels),
        precision_at_1=float(hits[:, :1].any(axis=1).mean()),
        recall_at_10=float(hits[:, :10].any(axis=1).mean()),
        recall_at_100=float(hits[:, :100].any(axis=1).mean()),
    )


def evenly_spaced(rows: int, limit: int | None) -> Ints:
    """Indices of at most `limit` of `rows` rows, spread evenly over all of them."""
    if limit is None or limit >= rows:
        return np.arange(rows, dtype=np.int64)
    return np.arange(limit, dtype=np.int64) * rows // limit


def _joined(parts: list[Any]) -> Any:
    """Feature blocks of unit length side by side, scaled so that a row has unit length again."""
    return sparse.hstack(parts, format="csr", dtype=np.float32) * np.float32(len(parts) ** -0.5)


def _best(scores: npt.NDArray[np.float32], top: int) -> npt.NDArray[np.intp]:
    """Columns of the `top` greatest values of each row, in order; ties go to the lower column."""
    edge = -np.partition(-scores, top - 1, axis=1)[:, top - 1]
    best = np.empty((len(scores), top), dtype=np.intp)
    for row, values in enumerate(scores):
        above = np.flatnonzero(values > edge[row])
        level = np.flatnonzero(values == edge[row])[: top - len(above)]
        columns = np.concatenate([above, level])
        columns.sort()
        best[row] = columns[np.argsort(-values[columns], kind="stable")]
    return best
