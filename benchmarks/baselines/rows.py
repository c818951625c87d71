"""Batches as the baselines in plain Torch take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workers.kernels.steps import Examples, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags:
    """The features of n rows."""

    ids: Tensor
    """(features,) int64."""
    offsets: Tensor
    """(n + 1,) int64."""
    values: Tensor
    """(features,) float32."""


def bags(rows: Rows) -> Bags:
    """Return the features of rows as tensors."""
    return Bags(
        ids=torch.from_numpy(rows.ids.astype(np.int64)),
        offsets=torch.from_numpy(rows.offsets),
        values=torch.from_numpy(rows.values),
    )


def one_label(examples: Examples, random: np.random.Generator) -> Tensor:
    """Return one of each row's labels, drawn anew each time, (n,) int64."""
    counts = np.diff(examples.label_offsets)
    drawn = examples.label_offsets[:-1] + random.integers(0, counts)
    return torch.from_numpy(examples.buckets[drawn].astype(np.int64))


class Embedding(nn.Module):
    """The sparse input layer that all baselines share."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(
            dimension, hidden, mode="sum", sparse=True, include_last_offset=True
        )
        nn.init.normal_(self.bag.weight, 0, 0.05)

    def forward(self, rows: Bags) -> Tensor:
        """Return the (n, h) float32 embedding of rows."""
        out: Tensor = self.bag(rows.ids, rows.offsets, per_sample_weights=rows.values)
        return out
