from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.baselines.mixture import Mixture
from benchmarks.baselines.plain_torch import PlainTorch
from benchmarks.baselines.rows import Bags
from benchmarks.baselines.sampled_softmax import SampledSoftmax
from workers.threads import Pool

DIMENSION, WIDTH, CLASSES = 60, 16, 40


class Rival(Protocol):
    def step(self, rows: Bags, labels: Tensor, factor: float) -> float: ...

    def scores(self, rows: Bags) -> Tensor: ...


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as pool:
        yield pool


def batch(count: int, seed: int = 0) -> tuple[Bags, Tensor]:
    """Return rows whose first feature names their label, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    ids = np.stack([labels, random.integers(CLASSES, DIMENSION, count)], 1).reshape(-1)
    rows = Bags(
        ids=torch.from_numpy(ids),
        offsets=torch.arange(0, 2 * count + 1, 2),
        values=torch.full((2 * count,), 0.7),
    )
    return rows, torch.from_numpy(labels)


def rivals(pool: Pool) -> dict[str, Rival]:
    return {
        "sampled": SampledSoftmax(DIMENSION, WIDTH, CLASSES, negatives=20, rate=0.02),
        "mixture": Mixture(
            DIMENSION, WIDTH, CLASSES, experts=4, inner=8, active=2, pool=pool, rate=0.02
        ),
    }


@pytest.mark.parametrize("name", ["sampled", "mixture"])
def test_a_baseline_learns_what_its_rows_say(name: str, pool: Pool) -> None:
    rival = rivals(pool)[name]
    for step in range(150):
        rival.step(*batch(100, seed=step), 1.0)
    rows, labels = batch(200, seed=999)
    assert (rival.scores(rows).argmax(1) == labels).float().mean() > 0.95


def test_the_softmax_of_the_mixture_has_the_gradients_of_cross_entropy(pool: Pool) -> None:
    mixture = Mixture(DIMENSION, WIDTH, CLASSES, experts=4, inner=8, pool=pool)
    hidden = torch.randn(130, WIDTH, requires_grad=True)
    head, bias = mixture.head.clone().requires_grad_(), mixture.bias.clone().requires_grad_()
    labels = torch.arange(130) % CLASSES
    loss = functional.cross_entropy(hidden @ head.T + bias, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    found, gradient = mixture.softmax(hidden.detach(), labels)
    assert found == pytest.approx(float(loss.detach()), rel=1e-2)
    for mine, wanted in (
        (gradient, hidden.grad),
        (mixture.head.grad, head.grad),
        (mixture.bias.grad, bias.grad),
    ):
        assert mine is not None and wanted is not None
        assert float((mine - wanted).norm() / wanted.norm()) < 1e-2


def test_plain_torch_learns_from_one_label_as_from_a_set_of_one() -> None:
    rows, labels = batch(64)
    losses = []
    for extra in (False, True):
        torch.manual_seed(0)
        plain = PlainTorch(DIMENSION, WIDTH, CLASSES, bf16=False)
        offsets, buckets = torch.arange(65), labels
        if extra:
            # The last row has its label twice, which makes its set's shares a half each.
            offsets = torch.cat([offsets[:-1], torch.tensor([65])])
            buckets = torch.cat([labels, labels[-1:]])
        losses.append(
            [plain.step(rows.ids, rows.offsets, rows.values, offsets, buckets) for _ in range(5)]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]
