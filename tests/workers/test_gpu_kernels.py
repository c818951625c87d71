"""The kernels for GPUs beside the reference, on a GPU where there is one, else interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.builders import copies
from tests.workers.networks import batch_of, difference, examples_of, network, shapes, trained
from workers.config import WorldConfig
from workers.kernels.steps import Examples, Rows, Tensors, first_state
from workers.kernels.torch_steps import TorchSteps

pytest.importorskip("triton")
from workers.kernels.gpu_steps import GpuSteps, works

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def on_device(tensors: Tensors) -> Tensors:
    return {name: tensor.to(DEVICE) for name, tensor in copies(tensors).items()}


def both(
    config: WorldConfig, weights: Tensors, batches: list[Examples], *, bf16: bool
) -> list[tuple[Tensors, list[float]]]:
    loss, relu = config.model.loss, config.model.activation == "relu"
    found = []
    for steps in (GpuSteps, TorchSteps):
        parameters = on_device(weights)
        made = steps(parameters, first_state(parameters), loss=loss, relu=relu, bf16=bf16)
        ended, losses = trained(made, parameters, batches)
        found.append(({name: tensor.cpu() for name, tensor in ended.items()}, losses))
    return found


@given(
    rows=st.integers(1, 12),
    shape=shapes((1,), (8,), (5, 7)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_the_kernels_equal_the_reference(rows: int, shape: dict[str, Any], seed: int) -> None:
    config, weights = network(**shape)
    rng = np.random.default_rng(seed)
    batches = [examples_of(batch_of(rng, rows, config), config) for _ in range(2)]
    (mine, losses), (theirs, wanted) = both(config, weights, batches, bf16=False)
    assert losses == pytest.approx(wanted, rel=1e-4)
    assert difference(mine, theirs, weights) < 1e-3


@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("hidden", [(16,), (16, 8)])
def test_the_kernels_equal_the_reference_in_bf16(loss: str, hidden: tuple[int, ...]) -> None:
    config, weights = network(hidden=hidden, loss=loss)
    batches = [examples_of(batch_of(np.random.default_rng(0), 40, config), config)]
    (mine, losses), (theirs, wanted) = both(config, weights, batches, bf16=True)
    assert losses == pytest.approx(wanted, rel=1e-2)
    # Adam's first step is a sign: numbers near zero turn with the rounding.
    assert difference(mine, theirs, weights) < 0.1


@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("hidden", [(8,), (8, 6)])
def test_probabilities_equal_the_reference(loss: str, hidden: tuple[int, ...]) -> None:
    config, weights = network(hidden=hidden, loss=loss)
    batch = batch_of(np.random.default_rng(0), 30, config)
    rows = Rows.of(batch)
    relu = config.model.activation == "relu"
    mine, wanted = (
        steps(on_device(weights), {}, loss=loss, relu=relu, bf16=False).probabilities(rows)
        for steps in (GpuSteps, TorchSteps)
    )
    np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-6)


def test_more_buckets_than_a_program_holds_at_a_time() -> None:
    config, weights = network(buckets=5000, d=20)
    batches = [examples_of(batch_of(np.random.default_rng(0), 3, config), config)]
    (mine, losses), (theirs, wanted) = both(config, weights, batches, bf16=False)
    assert losses == pytest.approx(wanted, rel=1e-4)
    assert difference(mine, theirs, weights) < 1e-3


def test_weights_that_were_changed_from_outside_are_taken_over() -> None:
    config, weights = network()
    rng = np.random.default_rng(0)
    parameters = on_device(weights)
    steps = GpuSteps(parameters, first_state(parameters), loss="softmax", relu=True, bf16=True)
    rows = examples_of(batch_of(rng, 5, config), config)
    before = steps.probabilities(rows)
    parameters["layer.0.weight"].mul_(-1)
    steps.refresh()
    assert (steps.probabilities(rows) - before).abs().max() > 0.01


def test_where_kernels_run_is_found_out_by_running_one() -> None:
    assert works(DEVICE)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_not_a_number_in_the_input_layer_shows_in_the_loss() -> None:
    config, weights = network()
    weights["input.weight"].fill_(float("nan"))
    parameters = on_device(weights)
    steps = GpuSteps(parameters, first_state(parameters), loss="softmax", relu=True, bf16=False)
    batch = batch_of(np.random.default_rng(0), 5, config)
    assert np.isnan(trained(steps, parameters, [examples_of(batch, config)])[1][0])
