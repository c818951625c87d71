from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.builders import copies
from tests.workers.networks import (
    INPUT_RATE,
    RATE,
    batch_of,
    difference,
    examples_of,
    network,
    shapes,
)
from workers.kernels import active_reference, reference
from workers.kernels.cpu_forward import CpuForward
from workers.kernels.cpu_steps import CpuSteps
from workers.kernels.numbers import Ids, Offsets
from workers.kernels.steps import Tensors, first_state
from workers.lsh.active import Active
from workers.lsh.layer import Vectors, Work
from workers.lsh.shared import SharedSteps
from workers.lsh.steps import ActiveSteps
from workers.threads import Pool


class AtRandom:
    """Chooses at random, and remembers what it chose."""

    def __init__(self, layers: int) -> None:
        self.masks: list[torch.Tensor | None] = [None] * layers
        self.touched: list[Ids | None] = []
        self.reloaded = 0
        self._step = 0
        self._lock = threading.Lock()

    def reload(self) -> None:
        self.reloaded += 1

    def begin(self, step: int) -> Work:
        self._step = step
        self.masks = [None] * len(self.masks)
        return Work(0, 1000)

    def choose(
        self,
        layer: int,
        span: tuple[int, int],
        inputs: Vectors,
        own: tuple[Offsets, Ids],
        wanted: int,
        chosen: Active,
    ) -> int:
        with self._lock:
            mask = self.masks[layer]
            if mask is None:
                mask = self.masks[layer] = torch.zeros(len(chosen.counts), chosen.width)
        for row in range(*span):
            rng = np.random.default_rng((self._step, layer, row))
            mine = np.unique(own[1][own[0][row] : own[0][row + 1]])
            others = rng.permutation(np.setdiff1d(np.arange(chosen.width), mine))
            ids = np.concatenate([mine, others[: max(0, wanted - len(mine))]])
            chosen.ids[row, : len(ids)], chosen.counts[row] = ids, len(ids)
            mask[row, ids] = 1
        return 7

    def end(self, touched: list[Ids | None], inputs: list[Vectors]) -> Work:
        self.touched = touched
        return Work(0, 10_000)


def wanted_of(widths: list[int], rng: np.random.Generator) -> list[int]:
    """Return for each layer all of its neurons, or some.

    Of buckets at least two: a row with one alone has no gradient but what rounding leaves, which
    optimisers that divide by its size turn into steps.
    """
    wanted = [width if rng.random() < 0.3 else int(rng.integers(1, width + 1)) for width in widths]
    return [*wanted[:-1], max(2, wanted[-1])]


def never(widths: list[int]) -> list[torch.Tensor]:
    """Return for each layer how often each neuron was active so far."""
    return [torch.zeros(width, dtype=torch.int32) for width in widths]


def state_of(weights: Tensors, widths: list[int]) -> Tensors:
    """Return the first state of an optimiser that knows how often each neuron was active."""
    names = ["input", *(f"layer.{layer}" for layer in range(len(widths) - 1))]
    counts = dict(zip([f"{name}.touches" for name in names], never(widths), strict=True))
    return first_state(weights) | counts


@given(
    rows=st.integers(1, 20),
    shape=shapes((1,), (8,), (5, 7), (17, 4, 6)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_steps_on_active_sets_equal_the_reference(
    rows: int, shape: dict[str, Any], seed: int
) -> None:
    config, weights = network(**shape)
    hidden, buckets, loss = config.model.hidden, config.partition.buckets, config.model.loss
    rng = np.random.default_rng(seed)
    mine, theirs = copies(weights), copies(weights)
    state, touches = first_state(theirs), never([*hidden, buckets])
    chooser = AtRandom(len(hidden) + 1)
    relu = config.model.activation == "relu"
    with Pool(2) as pool:
        steps = ActiveSteps(
            mine,
            state_of(mine, [*hidden, buckets]),
            loss=loss,
            relu=relu,
            wanted=wanted_of([*hidden, buckets], rng),
            chooser=chooser,
            pool=pool,
        )
        for step in range(1, 4):
            examples = examples_of(batch_of(rng, rows, config), config)
            rates: dict[str, Any] = {"input_rate": INPUT_RATE, "rate": RATE}
            found = steps.train(examples, step=step, **rates)
            expected = active_reference.train_step(
                theirs, state, examples, touches, chooser.masks, loss=loss, relu=relu, **rates
            )
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert difference(mine, theirs, weights) < 1e-3


def shared_steps(
    mine: Tensors, state: Tensors, wanted: int, chooser: AtRandom, how: dict[str, Any]
) -> SharedSteps:
    return SharedSteps(mine, state, wanted=wanted, chooser=chooser, **how)


def shared_state(weights: Tensors, hidden: int, width: int) -> Tensors:
    """Return the first state of an optimiser that knows when each bucket was last active."""
    last = {f"layer.{hidden - 1}.last": torch.zeros(width, dtype=torch.int32)}
    return first_state(weights) | last


@given(
    rows=st.integers(1, 20),
    shape=shapes((1,), (8,), (5, 7), (17, 4, 6)),
    wanted=st.integers(2, 33),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_steps_on_shared_buckets_equal_dense_ones_without_a_gradient_elsewhere(
    rows: int, shape: dict[str, Any], wanted: int, seed: int
) -> None:
    config, weights = network(**shape)
    hidden, width, loss = len(config.model.hidden), config.partition.buckets, config.model.loss
    rng = np.random.default_rng(seed)
    mine, theirs = copies(weights), copies(weights)
    state, others, chooser = (
        shared_state(mine, hidden, width),
        first_state(theirs),
        AtRandom(hidden + 1),
    )
    relu = config.model.activation == "relu"
    rates: dict[str, Any] = {"input_rate": INPUT_RATE, "rate": RATE}
    with Pool(2) as pool:
        how = {"loss": loss, "relu": relu, "bf16": False, "pool": pool}
        some, all_of = (shared_steps(mine, state, n, chooser, how) for n in (wanted, width))
        for step in range(1, 6):
            examples = examples_of(batch_of(rng, rows, config), config)
            # All make up for what they left out when they are active for the last time.
            steps = all_of if step == 5 else some
            found = steps.train(examples, step=step, **rates)
            ids = chooser.touched[-1]
            assert ids is not None
            own = np.unique(examples.buckets)
            assert set(own) <= set(ids)
            assert len(ids) == (width if step == 5 else max(len(own), min(wanted, width)))
            active = torch.zeros(rows, width)
            active[:, torch.from_numpy(ids).long()] = 1
            masks = [None] * hidden + [active]
            expected = active_reference.train_step(
                theirs, others, examples, None, masks, loss=loss, relu=relu, step=step, **rates
            )
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert (some.tally > 0).all()
    assert difference(mine, theirs, weights) < 1e-2


def test_shared_steps_predict_with_the_weights_that_they_made() -> None:
    config, weights = network(hidden=(8,), buckets=12)
    rng = np.random.default_rng(0)
    examples = examples_of(batch_of(rng, 20, config), config)
    for bf16 in (False, True):
        mine, chooser = copies(weights), AtRandom(2)
        with Pool(2) as pool:
            how = {"loss": "softmax", "relu": True, "bf16": bf16, "pool": pool}
            steps = shared_steps(mine, shared_state(mine, 1, 12), 5, chooser, how)
            steps.train(examples, step=1, input_rate=INPUT_RATE, rate=RATE)
            for changed in (False, True):
                if changed:
                    mine["layer.0.weight"] += 1
                    steps.refresh()
                expected = CpuForward(mine, **how).probabilities(examples)  # type: ignore[arg-type]
                assert torch.equal(steps.probabilities(examples), expected)
            assert chooser.reloaded == 1


def steps_of(mine: Tensors, wanted: list[int], chooser: AtRandom, pool: Pool) -> ActiveSteps:
    return ActiveSteps(
        mine,
        first_state(mine),
        loss="softmax",
        relu=True,
        wanted=wanted,
        chooser=chooser,
        pool=pool,
    )


def test_all_neurons_active_is_the_dense_step() -> None:
    config, weights = network(hidden=(9, 6), buckets=12)
    rng = np.random.default_rng(0)
    batches = [examples_of(batch_of(rng, 30, config), config) for _ in range(3)]
    mine, theirs = copies(weights), copies(weights)
    with Pool(2) as pool:
        some = steps_of(mine, [9, 6, 12], AtRandom(3), pool)
        dense = CpuSteps(
            theirs, first_state(theirs), loss="softmax", relu=True, bf16=False, pool=pool
        )
        for step, examples in enumerate(batches, 1):
            rates = {"input_rate": INPUT_RATE, "rate": RATE}
            one = some.train(examples, step=step, **rates)
            assert one == pytest.approx(dense.train(examples, step=step, **rates), rel=1e-5)
    assert difference(mine, theirs, weights) < 1e-4


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_of_the_candidates_those_of_the_highest_activations_are_active(loss: str) -> None:
    config, weights = network(hidden=(9, 7), buckets=12, loss=loss, activation="linear")
    rng = np.random.default_rng(0)
    examples = examples_of(batch_of(rng, 30, config), config)
    mine, theirs, masks, wanted = copies(weights), copies(weights), [], [4, 3, 5]
    rates = {"input_rate": INPUT_RATE, "rate": RATE}

    def fire(layer: int, activations: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(activations)
        masks.append(mask.scatter_(1, activations.topk(wanted[layer]).indices, 1))
        return activations * mask

    rows = (torch.from_numpy(a) for a in (examples.offsets, examples.ids, examples.values))
    offsets, ids, values = rows
    how = {"relu": False, "dtype": torch.float32, "fire": fire}
    logits = reference.logits(theirs, offsets, ids.long(), values, **how)  # type: ignore[arg-type]
    starts, buckets = examples.label_offsets, examples.buckets
    last = torch.zeros_like(logits)
    for row, line in enumerate(logits):
        own = torch.from_numpy(np.unique(buckets[starts[row] : starts[row + 1]])).long()
        others = line.clone()
        others[own] = -torch.inf
        last[row, own] = 1
        last[row, others.topk(max(0, wanted[2] - len(own))).indices] = 1
    with Pool(2) as pool:
        steps = ActiveSteps(
            mine,
            state_of(mine, [9, 7, 12]),
            loss=loss,
            relu=False,
            wanted=wanted,
            candidates=3,
            chooser=AtRandom(3),
            pool=pool,
        )
        found = steps.train(examples, step=1, **rates)
    expected = active_reference.train_step(
        theirs,
        first_state(theirs),
        examples,
        never([9, 7, 12]),
        [*masks[:2], last],
        loss=loss,
        relu=False,
        **rates,  # type: ignore[arg-type]
    )
    assert found == pytest.approx(expected, rel=1e-4)
    assert difference(mine, theirs, weights) < 1e-3


def test_weights_do_not_depend_on_the_number_of_threads() -> None:
    config, weights = network(d=300, hidden=(40, 30), buckets=50)
    rng = np.random.default_rng(0)
    batches = [examples_of(batch_of(rng, 200, config), config) for _ in range(2)]
    ends = []
    for threads in (1, 3):
        mine = copies(weights)
        with Pool(threads) as pool:
            steps = steps_of(mine, [7, 5, 9], AtRandom(3), pool)
            for step, examples in enumerate(batches, 1):
                steps.train(examples, step=step, input_rate=INPUT_RATE, rate=RATE)
        ends.append(mine)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in weights)


def test_the_tally_counts_what_active_neurons_cost() -> None:
    config, weights = network(d=50, hidden=(40, 30), buckets=20)
    rng = np.random.default_rng(0)
    examples = examples_of(batch_of(rng, 100, config, labels=1), config)
    features, rows = len(examples.ids), len(examples)
    wanted = [4, 3, 2]
    with Pool(2) as pool:
        chooser = AtRandom(3)
        steps = steps_of(copies(weights), wanted, chooser, pool)
        steps.train(examples, step=1, input_rate=INPUT_RATE, rate=RATE)
    products = 2 * features * 4 + 3 * rows * (4 * 3 + 3 * 2)
    softmax = rows * 9 * 2
    used = [set(map(tuple, np.argwhere(mask.numpy() > 0))) for mask in map(_mask, chooser.masks)]
    pairs = 0
    for below, above in pairwise(used):
        joined = {(k, j) for row, j in above for other, k in below if other == row}
        pairs += len(joined)
    biases = sum(len({j for _, j in mask}) for mask in used)
    adagrad = len(examples.features) * (2 * 40 + 3)
    assert steps.tally[0] == products + softmax + 7 * (pairs + biases) + adagrad
    # 7 for each of two spans of rows, in each layer.
    assert steps.tally[1] > steps.tally[0] - 7 * (pairs + biases) + 11_000 + 7 * 2 * 3
    assert [None if found is None else len(found) for found in chooser.touched] == [
        len({j for _, j in mask}) for mask in used
    ]


def _mask(mask: torch.Tensor | None) -> torch.Tensor:
    assert mask is not None
    return mask


def test_what_is_asked_after_rows_with_more_labels_has_its_active_buckets_alone() -> None:
    config, weights = network(hidden=(8,), buckets=12)
    batch = batch_of(np.random.default_rng(0), 30, config, labels=6)
    with Pool(2) as pool:
        steps = ActiveSteps(
            weights,
            first_state(weights),
            loss="softmax",
            relu=True,
            wanted=[8, 2],
            chooser=AtRandom(2),
            pool=pool,
            by_tables=True,
        )
        examples = examples_of(batch, config)
        steps.train(examples, step=1, input_rate=INPUT_RATE, rate=RATE)
        found = steps.probabilities(examples)
    assert ((found > 0).sum(1) == 2).all()
    assert torch.allclose(found.sum(1), torch.ones(30), atol=1e-5)
