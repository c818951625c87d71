"""The network of one world as one would write it in plain Torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PlainTorch:
    """A sparse embedding-bag and a linear head, with the optimisers that Torch has for them.

    Args:
        dimension: d, of the input.
        hidden: h, the width of the embedding.
        outputs: B.
        bf16: whether products run under autocast in bf16.
        rate: learning rate of both optimisers.
    """

    def __init__(
        self, dimension: int, hidden: int, outputs: int, *, bf16: bool, rate: float = 2e-3
    ) -> None:
        self.bag = nn.EmbeddingBag(
            dimension, hidden, mode="sum", sparse=True, include_last_offset=True
        )
        self.head = nn.Linear(hidden, outputs)
        self._bf16 = bf16
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.SparseAdam(self.bag.parameters(), lr=rate),
            torch.optim.Adam(self.head.parameters(), lr=rate, fused=True),
        )

    def step(
        self, ids: Tensor, offsets: Tensor, values: Tensor, label_offsets: Tensor, buckets: Tensor
    ) -> float:
        """Make one step on the loss of a world with `softmax`, and return that loss.

        Args:
            ids: (features,) int64.
            offsets: (n + 1,) int64; row i has the features between its offsets.
            values: (features,) float32.
            label_offsets: (n + 1,) int64, likewise; where all rows have one label, the loss
                takes Torch's shorter way.
            buckets: (labels,) int64.
        """
        counts = label_offsets.diff()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bf16):
            scores = self.head(self.bag(ids, offsets, per_sample_weights=values))
            if len(buckets) == len(counts):
                loss = functional.cross_entropy(scores, buckets)
            else:
                rows = torch.repeat_interleave(counts)
                picked = functional.log_softmax(scores, dim=1)[rows, buckets]
                loss = -(picked / counts[rows]).sum() / len(counts)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
        return float(loss.detach())
