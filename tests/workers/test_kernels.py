from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.workers.builders import bits, copies
from tests.workers.networks import (
    INPUT_RATE,
    RATE,
    batch_of,
    difference,
    examples_of,
    network,
    shapes,
    trained,
)
from workers.batch import Batch
from workers.config import WorldConfig
from workers.kernels.batches import transpose
from workers.kernels.cpu_steps import CpuSteps
from workers.kernels.losses import bce_probabilities, softmax_probabilities
from workers.kernels.steps import Examples, Tensors, first_state
from workers.kernels.torch_steps import TorchSteps
from workers.threads import Pool


def both(
    config: WorldConfig, weights: Tensors, batches: list[Examples], *, bf16: bool, threads: int = 2
) -> tuple[tuple[Tensors, list[float]], tuple[Tensors, list[float]]]:
    loss, relu = config.model.loss, config.model.activation == "relu"
    mine, theirs = copies(weights), copies(weights)
    with Pool(threads) as pool:
        compiled = CpuSteps(mine, first_state(mine), loss=loss, relu=relu, bf16=bf16, pool=pool)
        one = trained(compiled, mine, batches)
    plain = TorchSteps(theirs, first_state(theirs), loss=loss, relu=relu, bf16=bf16)
    return one, trained(plain, theirs, batches)


@given(
    rows=st.integers(1, 20),
    shape=shapes((1,), (8,), (5, 7), (17, 4, 6)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_the_kernels_equal_the_reference(rows: int, shape: dict[str, Any], seed: int) -> None:
    config, weights = network(**shape)
    rng = np.random.default_rng(seed)
    batches = [examples_of(batch_of(rng, rows, config), config) for _ in range(3)]
    (mine, my_losses), (theirs, losses) = both(config, weights, batches, bf16=False)
    assert my_losses == pytest.approx(losses, rel=1e-4)
    assert difference(mine, theirs, weights) < 1e-3


@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("hidden", [(16,), (16, 8)])
def test_the_kernels_equal_the_reference_closely(
    rng: np.random.Generator, hidden: tuple[int, ...], loss: str
) -> None:
    config, weights = network(hidden=hidden, loss=loss)
    batches = [examples_of(batch_of(rng, 300, config), config) for _ in range(5)]
    (mine, _), (theirs, _) = both(config, weights, batches, bf16=False)
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("hidden", [(16,), (16, 8)])
def test_the_kernels_equal_the_reference_in_bf16(
    rng: np.random.Generator, hidden: tuple[int, ...], loss: str
) -> None:
    config, weights = network(hidden=hidden, loss=loss)
    batches = [examples_of(batch_of(rng, 300, config), config) for _ in range(5)]
    (mine, my_losses), (theirs, losses) = both(config, weights, batches, bf16=True)
    assert my_losses == pytest.approx(losses, rel=1e-3)
    assert difference(mine, theirs, weights) < 2e-2


@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("bf16", [False, True])
def test_probabilities_equal_the_reference(rng: np.random.Generator, loss: str, bf16: bool) -> None:
    config, weights = network(hidden=(8, 6), loss=loss)
    rows = examples_of(batch_of(rng, 300, config), config)
    plain = TorchSteps(weights, {}, loss=loss, relu=True, bf16=bf16)
    with Pool(2) as pool:
        found = CpuSteps(weights, {}, loss=loss, relu=True, bf16=bf16, pool=pool).probabilities(
            rows
        )
    assert found.dtype == torch.float32
    assert found.shape == (300, 12)
    np.testing.assert_allclose(found, plain.probabilities(rows), rtol=2e-2 if bf16 else 1e-4)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_any_number_of_threads_gives_the_same_bits(
    rng: np.random.Generator, loss: str, bf16: bool
) -> None:
    # More than one span of rows, of buckets and of features.
    config, weights = network(d=700, hidden=(8,), buckets=520, loss=loss)
    batches = [examples_of(batch_of(rng, 260 + 200 * i, config), config) for i in range(3)]
    assert min(len(examples.features) for examples in batches) > 512
    results = []
    for threads in (1, 2, 3):
        mine = copies(weights)
        with Pool(threads) as pool:
            steps = CpuSteps(mine, first_state(mine), loss=loss, relu=True, bf16=bf16, pool=pool)
            _, losses = trained(steps, mine, batches)
            results.append((bits(mine), losses, steps.probabilities(batches[0]).numpy().tobytes()))
    assert results[0] == results[1] == results[2]


def float64_gradients(
    weights: Tensors, batch: Batch, examples: Examples, loss: str
) -> dict[str, NDArray[np.float64]]:
    """Return the gradients of a dense network, written out anew, in float64."""
    leaves = {name: tensor.double().requires_grad_() for name, tensor in weights.items()}
    n, d = len(batch), len(weights["input.weight"])
    inputs = torch.zeros(n, d, dtype=torch.float64)
    target = torch.zeros(n, len(weights["layer.1.bias"]), dtype=torch.float64)
    for row in range(n):
        for position in range(*batch.feature_offsets[row : row + 2].tolist()):
            inputs[row, batch.feature_ids[position]] += float(batch.feature_values[position])
        for position in range(*batch.label_offsets[row : row + 2].tolist()):
            target[row, examples.buckets[position]] += 1
    hidden = (inputs @ leaves["input.weight"] + leaves["input.bias"]).relu()
    hidden = (hidden @ leaves["layer.0.weight"].T + leaves["layer.0.bias"]).relu()
    scores = hidden @ leaves["layer.1.weight"].T + leaves["layer.1.bias"]
    if loss == "softmax":
        losses = -(scores.log_softmax(1) * target / target.sum(1, keepdim=True)).sum(1)
    else:
        chance, yes = scores.sigmoid(), (target > 0).double()
        losses = -(yes * chance.log() + (1 - yes) * (1 - chance).log()).sum(1)
    assert batch.weights is not None
    loss_of_all = (losses * torch.from_numpy(batch.weights)).sum() / n
    gradients = torch.autograd.grad(loss_of_all, list(leaves.values()))
    return {name: leaf.numpy() for name, leaf in zip(leaves, gradients, strict=True)}


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_gradients_are_those_of_a_dense_network(rng: np.random.Generator, loss: str) -> None:
    config, weights = network(hidden=(8, 6), loss=loss)
    batch = batch_of(rng, 50, config)
    examples = examples_of(batch, config)
    wanted = float64_gradients(weights, batch, examples, loss)
    mine = copies(weights)
    state = first_state(mine)
    with Pool(2) as pool:
        CpuSteps(mine, state, loss=loss, relu=True, bf16=False, pool=pool).train(
            examples, step=1, input_rate=INPUT_RATE, rate=RATE
        )
    # The first step leaves a tenth of the gradient in Adam's first moment, and moves the
    # input layer by the gradient over its root mean square.
    found = {
        name: 10.0 * state[f"{name}.first"].numpy() for name in weights if name != "input.weight"
    }
    step = (weights["input.weight"] - mine["input.weight"]).numpy() / INPUT_RATE
    found["input.weight"] = step * state["input.weight.square"].sqrt().unsqueeze(1).numpy()
    for name, gradient in wanted.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * scale)


def test_rows_that_no_example_touches_do_not_move(rng: np.random.Generator) -> None:
    config, weights = network(d=200)
    examples = examples_of(batch_of(rng, 10, config), config)
    mine = copies(weights)
    with Pool(1) as pool:
        steps = CpuSteps(mine, first_state(mine), loss="softmax", relu=True, bf16=False, pool=pool)
        trained(steps, mine, [examples])
    still = np.setdiff1d(np.arange(200), examples.ids)
    assert len(still) > 50
    assert mine["input.weight"][still].equal(weights["input.weight"][still])
    assert not mine["input.weight"].equal(weights["input.weight"])


def test_rows_of_weight_zero_teach_nothing(rng: np.random.Generator) -> None:
    config, weights = network()
    batch = batch_of(rng, 10, config)
    batch = Batch(
        **{name: getattr(batch, name) for name in Batch.__slots__ if name != "weights"},
        weights=np.zeros(10, np.float32),
    )
    mine = copies(weights)
    with Pool(1) as pool:
        steps = CpuSteps(mine, first_state(mine), loss="softmax", relu=True, bf16=False, pool=pool)
        _, losses = trained(steps, mine, [examples_of(batch, config)])
    assert losses == [0.0]
    assert bits(mine) == bits(weights)


@given(
    st.integers(0, 8), st.integers(1, 20), st.sampled_from([1, 2**7, 2**20]), st.integers(0, 1000)
)
def test_transpose_lists_every_features_rows(rows: int, d: int, stride: int, seed: int) -> None:
    config, _ = network(d=20)
    batch = batch_of(np.random.default_rng(seed), rows, config)
    ids = batch.feature_ids % np.int32(d) * np.int32(stride)
    features, starts, feature_rows, values = transpose(
        batch.feature_offsets, ids, batch.feature_values
    )
    owner = np.repeat(np.arange(rows), np.diff(batch.feature_offsets)).tolist()
    wanted: dict[int, list[tuple[int, float]]] = {}
    for feature, row, value in zip(ids.tolist(), owner, batch.feature_values.tolist(), strict=True):
        wanted.setdefault(feature, []).append((row, value))
    pairs = list(zip(feature_rows.tolist(), values.tolist(), strict=True))
    found = {
        feature: pairs[starts[i] : starts[i + 1]] for i, feature in enumerate(features.tolist())
    }
    assert found == wanted


@pytest.mark.parametrize("spread", [0.1, 5.0, 40.0])
def test_softmax_is_exact_to_float32(rng: np.random.Generator, spread: float) -> None:
    logits = rng.normal(scale=spread, size=(20, 300)).astype(np.float32)
    bias = rng.normal(size=300).astype(np.float32)
    out = np.empty_like(logits)
    softmax_probabilities(0, 20, logits, bias, out)
    # The sum as the kernel takes it: what is measured here is exp.
    z = (logits + bias).astype(np.float64)
    powers = np.exp(z - z.max(1, keepdims=True))
    wanted = powers / powers.sum(1, keepdims=True)
    seen = wanted > 1e-30
    assert np.abs(out - wanted)[seen].max() < 1e-6
    # An error of half a unit in z - max grows with its size.
    np.testing.assert_allclose(out[seen], wanted[seen], rtol=2e-6 + 1e-7 * 3 * spread)
    np.testing.assert_allclose(out.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("logit", [1e4, -1e4, 3e38])
def test_probabilities_of_extreme_logits(logit: float) -> None:
    logits = np.array([[logit, 0.0, 0.0]], np.float32)
    out = np.empty((2, 3), np.float32)
    softmax_probabilities(0, 1, logits, np.zeros(3, np.float32), out[:1])
    bce_probabilities(0, 1, logits, np.zeros(3, np.float32), out[1:])
    certain = 1.0 if logit > 0 else 0.0
    assert out[0] == pytest.approx([certain, (1 - certain) / 2, (1 - certain) / 2], abs=1e-30)
    assert out[1] == pytest.approx([certain, 0.5, 0.5], abs=1e-30)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("poison", ["input.weight", "layer.0.weight", "layer.1.bias"])
def test_not_a_number_shows_in_the_loss(
    rng: np.random.Generator, loss: str, bf16: bool, poison: str
) -> None:
    config, weights = network(hidden=(8, 6), loss=loss)
    weights[poison].view(-1)[:] = float("nan")
    with Pool(1) as pool:
        steps = CpuSteps(weights, first_state(weights), loss=loss, relu=True, bf16=bf16, pool=pool)
        _, losses = trained(steps, weights, [examples_of(batch_of(rng, 5, config), config)])
    assert np.isnan(losses).all()
