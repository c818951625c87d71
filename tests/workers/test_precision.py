from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.workers.networks import batch_of, network
from workers.classifier import BucketPredictor
from workers.errors import StorageError
from workers.precision import PRECISIONS, narrowed, precision_of, widened
from workers.tensors import tensor_file
from workers.threads import Pool

NARROW = [name for name in PRECISIONS if name != "fp32"]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as two:
        yield two


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 9),
    size=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_narrowed_weights_stand_for_nearly_the_same(
    rows: int, columns: int, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = size * torch.randn(rows, columns, generator=generator)
    tensors = {"input.weight": matrix, "input.bias": matrix[0].clone()}
    largest = matrix.abs().amax(1, keepdim=True)
    for precision, share in (("fp32", 0.0), ("bf16", 2.0**-8), ("int8", 0.501 / 127)):
        narrow = narrowed(tensors, precision)
        assert precision_of(narrow) == precision
        wide = widened(narrow)
        assert wide.keys() == tensors.keys()
        assert torch.equal(wide["input.bias"], tensors["input.bias"])
        assert ((wide["input.weight"] - matrix).abs() <= share * largest).all()


def test_weights_in_two_precisions_are_in_none() -> None:
    matrix = torch.ones(2, 3)
    mixed = {"input.weight": matrix, "layer.0.weight": matrix.bfloat16()}
    assert precision_of(mixed) is None
    assert precision_of({"input.weight": matrix.to(torch.int8)}) is None
    assert precision_of({"input.weight": matrix, "input.bias": matrix[0].bfloat16()}) is None
    assert precision_of({"input.weight": matrix, "input.weight.scale": matrix[:, 0]}) is None


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("hidden", [(8,), (5, 7)])
def test_predictions_are_those_of_the_weights_that_are_meant(
    pool: Pool, precision: str, loss: str, hidden: tuple[int, ...]
) -> None:
    config, weights = network(d=50, hidden=hidden, buckets=33, activation="relu", loss=loss)
    batch = batch_of(np.random.default_rng(1), 300, config)
    narrow = narrowed(weights, precision)
    found = BucketPredictor(config, narrow, device="cpu", pool=pool).probabilities(batch)
    meant = BucketPredictor(config, widened(narrow), device="cpu", pool=pool).probabilities(batch)
    np.testing.assert_allclose(found, meant, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    "scale",
    [torch.ones(49), torch.ones(1), torch.ones(50, 1), None],
    ids=["short", "one", "2-d", "none"],
)
def test_scales_that_do_not_fit_are_refused(pool: Pool, scale: torch.Tensor | None) -> None:
    config, weights = network(d=50, hidden=(8,), buckets=33)
    narrow = narrowed(weights, "int8")
    if scale is None:
        del narrow["input.weight.scale"]
    else:
        narrow["input.weight.scale"] = scale
    with pytest.raises(StorageError, match="weights: expected"):
        BucketPredictor(config, narrow, device="cpu", pool=pool)


@pytest.mark.parametrize("precision", NARROW)
def test_files_hold_narrow_weights_as_they_are(tmp_path: Path, precision: str) -> None:
    narrow = narrowed({"b": torch.randn(4, 6), "a": torch.randn(3)}, precision)
    tensor_file(narrow)(tmp_path / "w")
    read = load_file(tmp_path / "w")
    assert read.keys() == narrow.keys()
    assert all(torch.equal(read[name], narrow[name]) for name in narrow)
    assert all(read[name].dtype == narrow[name].dtype for name in narrow)
