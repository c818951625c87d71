from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu.batches import made_up
from benchmarks.gpu.disk import rows_a_second
from workers.kernels.batches import transpose

ROOT = Path(__file__).parents[2]


def test_made_up_batches_are_what_the_kernels_expect() -> None:
    batch = made_up(50, dimension=200, features=6, buckets=9, seed=0, most_labels=3)
    assert len(batch) == 50
    assert batch.buckets.dtype == batch.ids.dtype == batch.features.dtype == np.int32
    for start, stop in zip(batch.label_offsets, batch.label_offsets[1:], strict=False):
        labels = batch.buckets[start:stop]
        assert 1 <= len(labels) <= 3
        assert (np.diff(labels) >= 0).all()
    features, starts, rows, values = transpose(batch.offsets, batch.ids, batch.values)
    order = np.argsort(features)
    np.testing.assert_array_equal(features[order], batch.features)
    np.testing.assert_array_equal(np.diff(starts)[order], np.diff(batch.feature_starts))
    assert sorted(zip(rows, values, strict=True)) == sorted(
        zip(batch.feature_rows, batch.feature_values, strict=True)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_gradients_of_the_kernels_are_those_of_float64(
    loss: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from benchmarks.gpu import checks

    monkeypatch.setattr(checks, "_ROWS", 64)
    monkeypatch.setattr(checks, "_DIMENSION", 300)
    monkeypatch.setattr(checks, "_WIDTHS", {"fp32": (24, 16, 50), "bf16": (48, 100)})
    found = checks.checked(loss, precision, "cuda" if torch.cuda.is_available() else "cpu")
    assert found["right"], found


def test_a_world_is_timed_on_rows_from_disk() -> None:
    pace = rows_a_second(
        device="cpu", batch=16, steps=5, dimension=64, hidden=8, buckets=10, features=4
    )
    assert pace > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="says so where there is none")
def test_without_a_gpu_it_says_so_and_passes() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "no GPU" in ended.stdout
