"""One network over all K classes that learns against a sample of them in each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines.rows import Bags, Embedding


class SampledSoftmax:
    """Sampled softmax (Jean et al., ACL 2015, section 3.2), all negatives shared by the batch.

    Negatives are drawn uniformly, so the correction of the logits is one number for all of
    them; a row's own label is not held against it where it is drawn.

    Args:
        dimension: d, of the input.
        hidden: h.
        classes: K.
        negatives: how many classes a step samples.
        rate: learning rate of the sparse Adam on both layers.
        seed: of the weights and the samples.
    """

    def __init__(
        self,
        dimension: int,
        hidden: int,
        classes: int,
        *,
        negatives: int,
        rate: float = 0.01,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.embedding = Embedding(dimension, hidden)
        self.classes = nn.Embedding(classes, hidden, sparse=True)
        nn.init.normal_(self.classes.weight, 0, hidden**-0.5)
        self._negatives = negatives
        self._correction = math.log(classes / negatives)
        self._rate = rate
        self._optimizer: torch.optim.Optimizer = torch.optim.SparseAdam(self._parameters(), lr=rate)

    @property
    def parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(parameter.numel() for parameter in self._parameters())

    def step(self, rows: Bags, labels: Tensor, factor: float) -> float:
        """Make one step and return the loss.

        Args:
            rows: n of them.
            labels: (n,) int64.
            factor: of the learning rate.
        """
        drawn = torch.randint(self.classes.num_embeddings, (self._negatives,))
        hidden = self.embedding(rows)
        own = (hidden * self.classes(labels)).sum(1, keepdim=True)
        others = hidden @ self.classes(drawn).T + self._correction
        others = others.masked_fill(labels[:, None] == drawn, -math.inf)
        scores = torch.cat([own, others], 1)
        loss = functional.cross_entropy(scores, torch.zeros(len(labels), dtype=torch.int64))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * factor
        self._optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def scores(self, rows: Bags) -> Tensor:
        """Return (n, K) float32 scores."""
        scores: Tensor = self.embedding(rows) @ self.classes.weight.T
        return scores

    def _parameters(self) -> list[Tensor]:
        return [self.embedding.bag.weight, self.classes.weight]
