"""One batch of rows in compressed sparse rows (CSR)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The features and labels of n rows.

    Row i has the features `feature_ids[feature_offsets[i]:feature_offsets[i + 1]]`,
    no id twice from one column, and the labels `labels[label_offsets[i]:label_offsets[i + 1]]`.
    """

    feature_offsets: NDArray[np.int64]
    """(n + 1,) int64."""
    feature_ids: NDArray[np.int32]
    """(features,) int32 in [0, d)."""
    feature_values: NDArray[np.float32]
    """(features,) float32."""
    label_offsets: NDArray[np.int64]
    """(n + 1,) int64; all zero where the rows have no labels."""
    labels: NDArray[np.int64]
    """(labels,) int64 class ids in [0, K)."""
    weights: NDArray[np.float32] | None = None
    """(n,) float32, or None: all ones."""

    def __len__(self) -> int:
        return len(self.feature_offsets) - 1

    def rows_found(self, labels: NDArray[np.generic], answers: NDArray[np.generic]) -> int:
        """Return how many rows have a label that is the row's answer.

        Args:
            labels: (labels,) of the rows, or the buckets that these are in.
            answers: (n,) likewise.
        """
        owners = np.repeat(np.arange(len(self)), np.diff(self.label_offsets))
        return len(np.unique(owners[labels == answers[owners]]))
