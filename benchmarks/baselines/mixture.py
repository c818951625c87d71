"""A sparsely-gated mixture of experts under one softmax over all K classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines.rows import Bags, Embedding
from workers.kernels.cpu_forward import bits
from workers.kernels.losses import softmax_gradient
from workers.threads import Pool, spans

ROWS = 256
"""Rows of a batch whose K logits are held at a time."""
_IMPORTANCE = 0.1
"""Weight of the loss that keeps experts equally used (Shazeer et al. 2017, section 4)."""


class Experts(nn.Module):
    """Noisy top-k gating over experts of one hidden ReLU layer (Shazeer et al. 2017, section 2).

    Args:
        width: of input and output.
        experts: how many.
        inner: width of an expert's hidden layer.
        active: how many experts a row asks.
    """

    def __init__(self, width: int, experts: int, inner: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.gate = nn.Parameter(torch.zeros(width, experts))
        self.noise = nn.Parameter(torch.zeros(width, experts))
        self.inward = nn.Parameter(torch.randn(experts, width, inner) * (2 / width) ** 0.5)
        self.outward = nn.Parameter(torch.randn(experts, inner, width) * inner**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (n, width) mixture, and the loss of unequal use (section 4, equation 6)."""
        clean = x @ self.gate
        noisy = clean
        if self.training:
            noisy = clean + torch.randn_like(clean) * functional.softplus(x @ self.noise)
        best, experts = noisy.topk(self.active, dim=1)
        gates = torch.zeros_like(noisy).scatter(1, experts, best.softmax(1))
        out = x
        for expert in range(len(self.inward)):
            (rows,) = (gates[:, expert] > 0).nonzero(as_tuple=True)
            if len(rows):
                hidden = functional.relu(x[rows] @ self.inward[expert])
                added = gates[rows, expert, None] * (hidden @ self.outward[expert])
                out = out.index_add(0, rows, added)
        use = gates.sum(0)
        return out, use.var() / (use.mean() ** 2 + 1e-10)


class Mixture:
    """An embedding, a mixture of experts, and a softmax over all classes.

    The softmax takes the engine's kernel, which turns logits into gradients in place, some rows at
    a time: plain Torch would hold several copies of all of them.

    Args:
        dimension: d, of the input.
        width: of the embedding and of the mixture.
        classes: K.
        experts: how many.
        inner: width of an expert's hidden layer.
        active: how many experts a row asks.
        pool: threads of the softmax.
        rate: learning rate of Adam.
        seed: of the weights and the gates' noise.
    """

    def __init__(
        self,
        dimension: int,
        width: int,
        classes: int,
        *,
        experts: int,
        inner: int,
        active: int = 4,
        pool: Pool,
        rate: float = 0.01,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self._pool = pool
        self.embedding = Embedding(dimension, width)
        self.experts = Experts(width, experts, inner, active)
        self.head = torch.randn(classes, width) * width**-0.5
        self.bias = torch.zeros(classes)
        self.head.grad, self.bias.grad = torch.zeros_like(self.head), torch.zeros_like(self.bias)
        self._rate = rate
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.SparseAdam([self.embedding.bag.weight], lr=rate),
            torch.optim.Adam([*self.experts.parameters(), self.head, self.bias], rate, fused=True),
        )

    @property
    def parameters(self) -> int:
        """How many numbers are learnt."""
        modules = (self.embedding, self.experts)
        learnt = [parameter for module in modules for parameter in module.parameters()]
        return sum(parameter.numel() for parameter in [*learnt, self.head, self.bias])

    def step(self, rows: Bags, labels: Tensor, factor: float) -> float:
        """Make one step and return the loss.

        Args:
            rows: n of them.
            labels: (n,) int64.
            factor: of the learning rate.
        """
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=optimizer is self._optimizers[0])
            for group in optimizer.param_groups:
                group["lr"] = self._rate * factor
        self.experts.train()
        hidden, use = self.experts(self.embedding(rows))
        loss, gradient = self.softmax(hidden.detach(), labels)
        torch.autograd.backward([hidden, _IMPORTANCE * use], [gradient, torch.tensor(1.0)])
        for optimizer in self._optimizers:
            optimizer.step()
        return loss

    @torch.no_grad()
    def scores(self, rows: Bags) -> Tensor:
        """Return (n, K) float32 scores."""
        self.experts.eval()
        hidden, _ = self.experts(self.embedding(rows))
        scores: Tensor = hidden @ self.head.T + self.bias
        return scores

    def softmax(self, hidden: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Return the loss and its gradient at `hidden`; those of the head go to its grad.

        Args:
            hidden: (n, width) float32.
            labels: (n,) int64.
        """
        count = len(hidden)
        narrow, head = hidden.to(torch.bfloat16), self.head.to(torch.bfloat16)
        gradient, losses = torch.empty_like(hidden), np.empty(count, np.float32)
        buckets, scale = labels.to(torch.int32).numpy(), np.full(count, 1 / count, np.float32)
        offsets, bias = np.arange(count + 1), self.bias.numpy()
        assert self.head.grad is not None and self.bias.grad is not None
        for start, stop in spans(count, ROWS):
            part = slice(start, stop)
            logits = torch.mm(narrow[part], head.T)
            self._pool.run(
                lambda a, b, logits=logits, part=part: softmax_gradient(
                    a,
                    b,
                    bits(logits),
                    bias,
                    offsets[: len(logits) + 1],
                    buckets[part],
                    scale[part],
                    losses[part],
                ),
                spans(stop - start, -(-ROWS // self._pool.threads)),
            )
            gradient[part] = torch.mm(logits, head).float()
            self.head.grad += torch.mm(logits.T, narrow[part]).float()
            self.bias.grad += logits.sum(0, dtype=torch.float32)
        return float(losses.mean()), gradient
