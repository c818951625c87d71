from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.kernels.cpu_forward import bits
from workers.lsh.likely import chances, most_likely


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("inputs", [1, 7, 70])
def test_chances_are_those_of_the_candidates_alone(
    dtype: torch.dtype, softmax: bool, inputs: int
) -> None:
    rng = np.random.default_rng(0)
    rows, width, room = 9, 50, 12
    x = torch.from_numpy(rng.normal(size=(rows, inputs))).to(dtype)
    weight = torch.from_numpy(rng.normal(size=(width, inputs))).to(dtype)
    bias = rng.normal(size=width).astype(np.float32)
    ids = np.stack([rng.permutation(width)[:room] for _ in range(rows)]).astype(np.int32)
    counts = rng.integers(1, room + 1, rows).astype(np.int32)
    found = np.full((rows, room), -1, np.float32)
    for start, stop in ((0, 4), (4, rows)):
        chances(start, stop, ids, counts, bits(x), bits(weight), bias, softmax, found)
    for row in range(rows):
        mine = torch.from_numpy(ids[row, : counts[row]]).long()
        logits = weight.float()[mine] @ x.float()[row] + torch.from_numpy(bias)[mine]
        expected = torch.softmax(logits, 0) if softmax else torch.sigmoid(logits)
        assert torch.allclose(torch.from_numpy(found[row, : counts[row]]), expected, atol=1e-5)
    assert (found[np.arange(room) >= counts[:, None]] == -1).all()


@given(
    width=st.integers(1, 30),
    rows=st.integers(1, 6),
    wanted=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_the_likeliest_of_any_row_are_taken_after_own_ones(
    width: int, rows: int, wanted: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    wanted = min(wanted, width)
    room = int(rng.integers(1, width + 1))
    ids = np.stack([rng.permutation(width)[:room] for _ in range(rows)]).astype(np.int32)
    counts = rng.integers(1, room + 1, rows).astype(np.int32)
    found = rng.choice([0.1, 0.2, 0.5, 0.9, np.nan], (rows, room)).astype(np.float32)
    own = rng.integers(0, width, rng.integers(0, 5)).astype(np.int32)
    begin = int(rng.integers(width))
    chosen = most_likely(ids, counts, found, own, wanted, begin, width)
    best = np.zeros(width)
    for row in range(rows):
        for neuron, chance in zip(ids[row, : counts[row]], found[row], strict=False):
            best[neuron] = np.fmax(best[neuron], chance)
    best[own] = 1
    order = sorted(range(width), key=lambda n: (-best[n], n if best[n] else (n - begin) % width))
    expected = order[: max(wanted, len(set(own.tolist())))]
    assert chosen.tolist() == sorted(expected)
    assert chosen.dtype == np.int32
