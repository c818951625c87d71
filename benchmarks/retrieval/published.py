"""The gather loop of the published code, in Torch.

After Medini et al., NeurIPS 2019 (the authors' evaluation script): for every world the scores of
all classes are gathered through a table of int64 and added up, (queries, K) floats at a time,
then the best are taken.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from workers.partition import Partition


class GatherLoop:
    """R tables of K int64 each.

    Args:
        partitions: of the worlds.
    """

    def __init__(self, partitions: list[Partition]) -> None:
        classes = torch.arange(partitions[0].classes)
        self.tables = [
            torch.from_numpy(part.buckets_of(classes.numpy()).astype(np.int64))
            for part in partitions
        ]

    @property
    def bytes(self) -> int:
        """Of the tables."""
        return sum(table.nbytes for table in self.tables)

    def best(self, scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the (n, k) best classes of (R, n, B) scores."""
        total = torch.zeros(scores.shape[1], len(self.tables[0]))
        for values, table in zip(scores, self.tables, strict=True):
            total += torch.from_numpy(values)[:, table]
        return total.topk(k).indices.numpy()
