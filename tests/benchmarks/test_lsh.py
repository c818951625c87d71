from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.lsh.accuracy import SETS, Unit
from benchmarks.lsh.choosers import AtRandom, Compared, Dropout, Winners
from benchmarks.lsh.images import SIDE, convex, is_convex, rectangles
from benchmarks.lsh.masked import MaskedSteps
from benchmarks.lsh.products import Way
from benchmarks.lsh.report import Units, table
from tests.workers.builders import copies
from tests.workers.networks import (
    INPUT_RATE,
    RATE,
    batch_of,
    difference,
    examples_of,
    network,
)
from workers.kernels.steps import first_state
from workers.lsh.active import Active
from workers.lsh.layer import Vectors
from workers.lsh.steps import ActiveSteps
from workers.threads import Pool

ROWS, WIDTH, WANTED = 40, 30, 6


def test_rectangles_are_outlines_labelled_by_their_shape() -> None:
    images, labels = rectangles(200, seed=3)
    for image, label in zip(images.reshape(-1, SIDE, SIDE) > 0, labels, strict=True):
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert abs(height - width) >= 3
        assert label == (height > width)
        assert image.sum() == height * width - max(0, height - 2) * max(0, width - 2)
    assert 60 < labels.sum() < 140
    assert np.array_equal(images, rectangles(200, seed=3)[0])


def test_convex_sets_are_labelled_so() -> None:
    images, labels = convex(60, seed=3)
    assert labels.sum() == 30
    assert all(
        is_convex(image) == label
        for image, label in zip(images.reshape(-1, SIDE, SIDE) > 0, labels, strict=True)
    )


def chosen_by(chooser: Compared, wanted: int, room: int) -> Active:
    """Let some rows, the second half of a batch, choose neurons for random inputs."""
    rng = np.random.default_rng(0)
    chosen = Active.empty(2 * ROWS, WIDTH, room, whole=False)
    values = rng.normal(size=ROWS * 8).astype(np.float32)
    inputs = Vectors(
        np.arange(ROWS, dtype=np.int64) * 8,
        np.full(ROWS, 8, np.int32),
        np.tile(np.arange(8, dtype=np.int32), ROWS),
        values,
    )
    # One own neuron a row; the last row has more of them than are wanted.
    labels = np.arange(2 * ROWS, dtype=np.int32) % WIDTH
    own = np.concatenate([labels[:-1], np.arange(10, dtype=np.int32), labels[-1:]])
    offsets = np.arange(2 * ROWS + 1, dtype=np.int64)
    offsets[-1] += 10
    chooser.begin(1)
    chooser.choose(1, (ROWS, 2 * ROWS), inputs, (offsets, own), wanted, chosen)
    for row in range(ROWS, 2 * ROWS):
        mine = np.unique(own[offsets[row] : offsets[row + 1]])
        ids = chosen.ids[row, : chosen.counts[row]]
        assert ids[: len(mine)].tolist() == mine.tolist()
        assert len(np.unique(ids)) == len(ids)
    return chosen


def test_winners_are_the_highest() -> None:
    _, weights = network(hidden=(8,), buckets=WIDTH)
    chosen = chosen_by(Winners(weights), WANTED, 12)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=ROWS * 8).astype(np.float32)).reshape(ROWS, 8)
    scores = x @ weights["layer.0.weight"].T + weights["layer.0.bias"]
    for row in range(ROWS - 1):
        own = (ROWS + row) % WIDTH
        best = [n for n in scores[row].argsort(descending=True).tolist() if n != own]
        mine = chosen.ids[ROWS + row, :WANTED].tolist()
        assert mine[0] == own
        assert set(mine[1:]) == set(best[: WANTED - 1])
    assert (chosen.counts[ROWS:-1] == WANTED).all()
    assert chosen.counts[-1] == 11


@pytest.mark.parametrize("chooser", [AtRandom(0), Dropout(0, 0.5)])
def test_what_is_random_takes_each_neuron(chooser: Compared) -> None:
    chosen = chosen_by(chooser, WIDTH // 2, WIDTH)
    taken = [n for row in range(ROWS, 2 * ROWS) for n in chosen.ids[row, : chosen.counts[row]]]
    # 20 of each are expected, with a standard deviation of 3.
    assert abs(np.bincount(taken, minlength=WIDTH) - ROWS / 2).max() < 15
    assert (len(set(chosen.counts[ROWS:-1].tolist())) > 1) == isinstance(chooser, Dropout)


def test_a_table_is_made_of_what_is_there() -> None:
    nothing: dict[str, Units] = {name: {} for name in ("wide", "wall", *SETS)}
    assert "| digits | hashing | – |" in table(nothing)
    operations = {"steps": 2, "multiplications": 100, "additions": 100, "bytes": 10}
    few = {"steps": 1, "multiplications": 2, "additions": 3, "bytes": 1}
    found = nothing | {
        "digits": {
            Unit("dense", 1.0, 0).name: {"accuracy": 0.9, "operations": operations},
            Unit("hashing", 0.05, 0).name: {"accuracy": 0.8, "operations": few},
            Unit("hashing", 0.05, 1).name: {"accuracy": 0.9, "operations": few},
        },
        "wide": {"dense": {"accuracy": 0.5, "seconds": 10}},
        "wall": {
            f"{buckets} {way.name}": {"seconds": seconds, **operations}
            for buckets, way, seconds in (
                (1000, Way(1.0), 1.0),
                (1000, Way(0.01), 2.0),
                (5000, Way(1.0), 3.0),
                (5000, Way(0.01), 2.0),
            )
        },
    }
    lines = table(found).splitlines()
    assert any(line.startswith("| digits | hashing | 90.0 |") for line in lines)
    assert any("85.0 ± 7.1" in line for line in lines)
    assert "| digits | 0.05 | 4.0 | 6.0 | 20.0 |" in lines
    assert any("2,000 (1.5)" in line for line in lines)
    assert any(line.startswith("| own |") and "5,000" in line for line in lines)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_masked_steps_equal_those_of_active_sets(loss: str) -> None:
    config, weights = network(hidden=(8,), buckets=60, loss=loss, activation="linear")
    rng = np.random.default_rng(0)
    rates: dict[str, Any] = {"input_rate": INPUT_RATE, "rate": RATE}
    how: dict[str, Any] = {"loss": loss, "relu": False}
    both = copies(weights), copies(weights)
    states = [first_state(mine) for mine in both]
    for state in states:
        state["layer.0.touches"] = torch.zeros(60, dtype=torch.int32)
    with Pool(2) as pool:
        some = ActiveSteps(
            both[0], states[0], wanted=[8, 5], chooser=Winners(both[0]), pool=pool, **how
        )
        masked = MaskedSteps(
            both[1], states[1], wanted=5, chooser=Winners(both[1]), bf16=False, pool=pool, **how
        )
        # The last batch is a smaller one.
        for step, rows in enumerate((7, 9, 3), 1):
            examples = examples_of(batch_of(rng, rows, config), config)
            expected = some.train(examples, step=step, **rates)
            assert masked.train(examples, step=step, **rates) == pytest.approx(expected, rel=1e-5)
            assert masked.tally.tolist() == some.tally.tolist()
    # Not all buckets were active in all steps.
    touches = [state["layer.0.touches"] for state in states]
    assert touches[0].min() < touches[0].max()
    assert torch.equal(*touches)
    assert difference(*both, weights) < 1e-3
