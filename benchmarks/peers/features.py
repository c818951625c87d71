"""The features that peers see, as float32 CSR matrices of scipy.

- Text: word 1-2-grams, and 4-grams of characters within words (scikit-learn's
  `char_wb`, so that words shorter than four characters count); of each the
  1,000,000 most frequent, logarithmic TF-IDF, rows of unit length; side by
  side, rows again of unit length. Of twelve such choices (one TF-IDF over both,
  4-grams across words, plain counts, n-grams of two rows and more) this one gave
  both peers their highest P@1 on the set `tldr`.
- Feature ids: the given values, rows of unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from benchmarks.datasets import BenchmarkSet, Lists, read_column, read_lists

VOCABULARY = 1_000_000
"""Most frequent n-grams kept of words and of characters each: bounds the peers' memory."""

Csr = Any  # scipy.sparse.csr_matrix: scipy has no types and is not in every environment


class TextFeatures:
    """Turns texts into rows, once it has seen the training texts."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        shared = {"sublinear_tf": True, "max_features": VOCABULARY, "dtype": np.float32}
        self._weighers = [
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **shared),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), **shared),
        ]

    def fit(self, texts: Sequence[str]) -> Csr:
        """Learn the n-grams of training texts, and return their rows."""
        return _side_by_side([weigher.fit_transform(texts) for weigher in self._weighers])

    def rows(self, texts: Sequence[str]) -> Csr:
        """Return the rows of other texts."""
        return _side_by_side([weigher.transform(texts) for weigher in self._weighers])


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
        csr(_values(folder, chosen, part), part.ids, part.offsets, (len(part.lengths), width))
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


def csr(data: Any, columns: Any, offsets: Any, shape: tuple[int, int]) -> Csr:
    """Return a float32 CSR matrix whose rows are sorted, as PECOS needs them."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((data, columns, offsets), shape=shape)
    matrix.sum_duplicates()
    return matrix.astype(np.float32)


def texts_of(folder: Path, columns: Sequence[str]) -> list[str]:
    """Return the texts of all rows, those of several columns joined by spaces."""
    texts = [read_column(folder, column).combine_chunks().fill_null("") for column in columns]
    joined: list[str] = pc.binary_join_element_wise(*texts, " ").to_pylist()
    return joined
