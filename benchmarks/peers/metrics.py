"""Accuracy of ranked classes, for whatever ranks them.

Metrics are fractions, means over the test rows that have labels: `P@k` hits in the top k / k,
`R@k` hits / labels, `NDCG@k` with an ideal of min(k, labels) hits, `MRR@k` 1 / rank of the
first hit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.datasets import Lists

TOP = 100
"""Predictions that are kept for every test row."""

Ids = npt.NDArray[np.int64]


def metrics(best: Ids, labels: Lists, classes: int) -> dict[str, float]:
    """Score ranked classes, shape (n, TOP), against the labels of the n rows."""
    kept = labels.lengths > 0
    hits = contains(labels, best, classes)[kept].astype(np.float64)
    counts = labels.lengths[kept].astype(np.float64)
    scores = {f"P@{k}": hits[:, :k].sum(axis=1) / k for k in (1, 5)}
    scores |= {f"R@{k}": hits[:, :k].sum(axis=1) / counts for k in (10, 20, 100)}
    gains = 1 / np.log2(np.arange(2, 22))
    ideal = np.cumsum(gains)[np.minimum(counts, 20).astype(np.int64) - 1]
    scores["NDCG@20"] = hits[:, :20] @ gains / ideal
    scores["MRR@20"] = (hits[:, :20] / np.arange(1, 21)).max(axis=1)
    return {name: round(float(score.mean()), 5) for name, score in scores.items()}


def contains(lists: Lists, best: Ids, classes: int) -> npt.NDArray[np.bool_]:
    """Tell which of each row's classes are in that row's list; -1 never is."""
    rows = np.arange(len(best), dtype=np.int64)[:, None]
    keys = lists.rows * classes + lists.ids
    return np.isin(rows * classes + best, keys) & (best >= 0)
