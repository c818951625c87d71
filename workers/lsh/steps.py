"""A training step in which each row computes its active neurons only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from workers.kernels import active, cpu
from workers.kernels import active_updates as updates
from workers.kernels.cpu_forward import CpuForward
from workers.kernels.losses import bce_gradient, softmax_gradient
from workers.kernels.numbers import Floats, Ids, Offsets
from workers.kernels.steps import Examples, Tensors
from workers.lsh.layer import Vectors
from workers.threads import Pool, Task, spans

ROWS = 64
"""Rows of a batch in one task."""
NEURONS = 256
"""Neurons whose weights are updated in one task."""
FEATURES = 256
"""Features of the input layer in one task."""


@dataclass(frozen=True, slots=True)
class Active:
    """The active neurons of n rows in one layer; see `workers.kernels.active`."""

    width: int
    """Of the layer."""
    whole: bool
    """Whether all are active in all rows."""
    ids: Ids
    """(n, room)."""
    counts: Ids
    """(n,)."""
    odds: Floats
    """(n, room) how many neurons each stands for."""
    values: Floats
    """(n, room) activations; of the last layer, logits."""
    deltas: Floats
    """(n, room) the loss's gradient there."""

    @staticmethod
    def empty(rows: int, width: int, room: int, *, whole: bool) -> Active:
        """Return space for n rows of at most `room` active neurons."""
        shape = rows, room
        ids = np.tile(np.arange(room, dtype=np.int32), (rows, 1))
        counts = np.full(rows, room, np.int32)
        values, deltas = np.empty(shape, np.float32), np.empty(shape, np.float32)
        return Active(width, whole, ids, counts, np.ones(shape, np.float32), values, deltas)

    def first(self, rows: int) -> Active:
        """Return the first rows."""
        floats = (array[:rows] for array in (self.odds, self.values, self.deltas))
        return Active(self.width, self.whole, self.ids[:rows], self.counts[:rows], *floats)

    def touched(self) -> Touched:
        """Return who is active where."""
        return Touched(*updates.by_neuron(self.ids, self.counts, self.width))

    def vectors(self, start: int, stop: int) -> Vectors:
        """Return the activations of some rows as vectors."""
        begins = np.arange(start, stop, dtype=np.int64) * self.ids.shape[1]
        ids, values = self.ids.reshape(-1), self.values.reshape(-1)
        return Vectors(begins, self.counts[start:stop], ids, values)

    @property
    def inputs(self) -> tuple[Ids, Ids, Floats]:
        """As the inputs of the next layer."""
        return self.ids, self.counts, self.values


class Touched(NamedTuple):
    """The neurons of a layer that some row has active."""

    neurons: Ids
    """(u,) ascending."""
    starts: Offsets
    """(u + 1,) where each one's places begin."""
    places: Offsets
    """(active,) in `Active.ids`, flat."""


class Chooser(Protocol):
    """Chooses the active neurons of rows, layer by layer."""

    def reload(self) -> None:
        """Take over a state that was changed from outside."""

    def begin(self, step: int) -> int:
        """Prepare for a step, numbered from 1; return additions and comparisons."""

    def choose(
        self,
        layer: int,
        span: tuple[int, int],
        inputs: Vectors,
        own: tuple[Offsets, Ids],
        wanted: int,
        chosen: Active,
    ) -> int:
        """Write ids, counts and odds of some rows.

        Args:
            layer: 0 for the input layer.
            span: [start, stop) of the rows.
            inputs: (stop - start,) the layer's inputs of these rows.
            own: (n + 1,) offsets, and the neurons that a row has active in any case, which come
                first, ascending.
            wanted: how many to choose for a row, unless its own are more.
            chosen: written.

        Returns:
            Additions and comparisons.
        """

    def end(self, touched: list[Ids | None]) -> int:
        """Take note of the neurons of each layer that a step moved; return as `begin`."""


class ActiveSteps(CpuForward):
    """Compiled kernels that compute active neurons only, in float32.

    Args:
        parameters: contiguous float32 tensors on the CPU, updated in place.
        state: the optimiser's, likewise.
        loss: `softmax` or `bce`.
        relu: whether hidden layers are rectified; else they are linear.
        wanted: active neurons of a row in each layer, B the last; its width, if all are.
        chooser: of those.
        pool: where tasks run.
        kept: as for `CpuForward`.
    """

    def __init__(
        self,
        parameters: Tensors,
        state: Tensors,
        *,
        loss: str,
        relu: bool,
        wanted: list[int],
        chooser: Chooser,
        pool: Pool,
        kept: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(parameters, loss=loss, relu=relu, bf16=False, pool=pool, kept=kept)
        self._relu = relu
        self._loss_name = loss
        self._wanted = wanted
        self._chooser = chooser
        self._arrays = {name: tensor.numpy() for name, tensor in (parameters | state).items()}
        self._held: list[Active] = []
        self.tally = np.zeros(3, np.int64)
        """What was done so far; see `workers.kernels.active`."""

    def refresh(self) -> None:
        """See `Steps.refresh`."""
        self._chooser.reload()

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        layers = self._room(examples)
        losses = np.empty(len(examples), np.float32)
        _count(self.tally, 0, self._chooser.begin(step))
        parts = spans(len(examples), ROWS)
        self._run([(self._there_and_back, (*part, examples, layers, losses)) for part in parts])
        unbiased = rate / (1 - 0.9**step), 1 / (1 - 0.999**step) ** 0.5
        touched = [
            layer.touched() if index or not layer.whole else None
            for index, layer in enumerate(layers)
        ]
        tasks = [
            *self._layer_tasks(layers, touched, unbiased),
            *self._input_tasks(examples, layers[0], touched[0], input_rate, unbiased),
        ]
        self._run(tasks)
        moved = [None if found is None else found.neurons for found in touched]
        _count(self.tally, 0, self._chooser.end(moved))
        return float(np.dot(losses.astype(np.float64), examples.scale.astype(np.float64)))

    def _run(self, tasks: list[Task]) -> None:
        """Run tasks, each with a tally of its own at the end, and add those up."""
        tallies = np.zeros((len(tasks), 3), np.int64)
        self._pool.run_tasks(
            [(work, (*given, tally)) for (work, given), tally in zip(tasks, tallies, strict=True)]
        )
        self.tally += tallies.sum(0)

    def _room(self, examples: Examples) -> list[Active]:
        """Return room for a batch, kept between steps."""
        rows = len(examples)
        labels = int(np.diff(examples.label_offsets).max(initial=0))
        widths = [len(bias) for bias in self._biases]
        rooms = [*self._wanted[:-1], min(widths[-1], max(self._wanted[-1], labels))]
        held = self._held
        if not held or held[-1].ids.shape[1] < rooms[-1] or len(held[0].counts) < rows:
            shapes = zip(widths, rooms, self._wanted, strict=True)
            held = [Active.empty(rows, w, room, whole=w == n) for w, room, n in shapes]
            # Logits turn into gradients in place.
            held[-1] = replace(held[-1], deltas=held[-1].values)
            self._held = held
        return [layer.first(rows) for layer in held]

    def _there_and_back(
        self,
        start: int,
        stop: int,
        examples: Examples,
        layers: list[Active],
        losses: Floats,
        tally: active.Tally,
    ) -> None:
        span, last = (start, stop), len(layers) - 1
        self._input_forward(span, examples, layers[0], tally)
        for index in range(1, len(layers)):
            before, layer = layers[index - 1], layers[index]
            own = (examples.label_offsets, examples.buckets) if index == last else None
            self._choose(span, index, before.vectors(*span), own, layer, tally)
            weight, bias = self._weights(index)
            floor = -math.inf if index == last else self._floor
            given = *span, *before.inputs, weight, bias, floor
            active.layer_active(*given, layer.ids, layer.counts, layer.values, tally)
        self._loss(span, examples, layers[-1], losses, tally)
        for index in range(last, 0, -1):
            before, layer = layers[index - 1], layers[index]
            weight, _ = self._weights(index)
            back = *span, layer.ids, layer.counts, layer.deltas, weight, *before.inputs
            active.inputs_gradient(*back, self._relu, before.deltas, tally)

    def _input_forward(
        self, span: tuple[int, int], examples: Examples, layer: Active, tally: active.Tally
    ) -> None:
        weight, bias = self._arrays["input.weight"], self._biases[0]
        rows = *span, examples.offsets, examples.ids, examples.values, weight, bias, self._floor
        if layer.whole:
            cpu.embedding_bag(*rows, layer.values)
            features = examples.offsets[span[1]] - examples.offsets[span[0]]
            _count(tally, features * layer.width, features * layer.width)
            return
        offsets = examples.offsets[span[0] : span[1] + 1]
        counts = np.diff(offsets).astype(np.int32)
        inputs = Vectors(offsets[:-1], counts, examples.ids, examples.values)
        self._choose(span, 0, inputs, None, layer, tally)
        active.bag_active(*rows, layer.ids, layer.counts, layer.values, tally)

    def _choose(
        self,
        span: tuple[int, int],
        index: int,
        inputs: Vectors,
        own: tuple[Offsets, Ids] | None,
        layer: Active,
        tally: active.Tally,
    ) -> None:
        if layer.whole:
            return
        if own is None:
            own = np.zeros(len(layer.counts) + 1, np.int64), np.empty(0, np.int32)
        done = self._chooser.choose(index, span, inputs, own, self._wanted[index], layer)
        _count(tally, 0, done)

    def _loss(
        self,
        span: tuple[int, int],
        examples: Examples,
        layer: Active,
        losses: Floats,
        tally: active.Tally,
    ) -> None:
        labels = examples.label_offsets, examples.buckets, examples.scale, losses
        softmax = self._loss_name == "softmax"
        if layer.whole:
            # Biases are in the logits already.
            logits = *span, layer.values, np.zeros(layer.width, np.float32)
            whole = softmax_gradient if softmax else bce_gradient
            whole(*logits, *labels)
            numbers = (span[1] - span[0]) * layer.width
            _count(tally, *(each * numbers for each in active.OF_LOSS[self._loss_name]))
            return
        some = active.softmax_active if softmax else active.bce_active
        chosen = *span, layer.values, layer.odds, layer.counts, *labels
        some(*chosen, tally)

    def _weights(self, index: int) -> tuple[Floats, Floats]:
        name = f"layer.{index - 1}"
        return self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]

    def _moments(self, name: str) -> tuple[Floats, Floats]:
        return self._arrays[f"{name}.first"], self._arrays[f"{name}.second"]

    def _layer_tasks(
        self, layers: list[Active], touched: list[Touched | None], unbiased: tuple[float, float]
    ) -> list[Task]:
        tasks: list[Task] = []
        for index in range(1, len(layers)):
            found = touched[index]
            assert found is not None
            weight, _ = self._weights(index)
            moments = self._moments(f"layer.{index - 1}.weight")
            inputs = layers[index - 1].inputs
            for span in spans(len(found.neurons), NEURONS):
                given = *span, *found, layers[index].deltas, *inputs, weight, *moments, *unbiased
                tasks.append((updates.adam_active, given))
                tasks.append(
                    self._bias_task(f"layer.{index - 1}.bias", layers[index], found, span, unbiased)
                )
        return tasks

    def _input_tasks(
        self,
        examples: Examples,
        layer: Active,
        found: Touched | None,
        input_rate: float,
        unbiased: tuple[float, float],
    ) -> list[Task]:
        of_features = (
            examples.features,
            examples.feature_starts,
            examples.feature_rows,
            examples.feature_values,
        )
        table = self._arrays["input.weight"], self._arrays["input.weight.square"], input_rate
        parts = spans(len(examples.features), FEATURES)
        if found is None:
            return [
                (self._whole_bias, (layer, unbiased)),
                *((self._whole_rows, (*span, of_features, layer, table)) for span in parts),
            ]
        chosen = layer.ids, layer.counts, layer.deltas
        return [
            self._bias_task("input.bias", layer, found, (0, len(found.neurons)), unbiased),
            *((updates.adagrad_active, (*span, *of_features, *chosen, *table)) for span in parts),
        ]

    def _bias_task(
        self,
        name: str,
        layer: Active,
        found: Touched,
        span: tuple[int, int],
        unbiased: tuple[float, float],
    ) -> Task:
        given = *span, *found, layer.deltas, self._arrays[name], *self._moments(name), *unbiased
        return updates.adam_active_bias, given

    def _whole_bias(
        self, layer: Active, unbiased: tuple[float, float], tally: active.Tally
    ) -> None:
        bias, moments = self._arrays["input.bias"], self._moments("input.bias")
        cpu.adam_bias(0, layer.width, layer.deltas, bias, *moments, *unbiased)
        _count(tally, 7 * layer.width, layer.deltas.size)

    def _whole_rows(
        self,
        start: int,
        stop: int,
        of_features: tuple[Ids, Offsets, Ids, Floats],
        layer: Active,
        table: tuple[Floats, Floats, float],
        tally: active.Tally,
    ) -> None:
        cpu.adagrad_rows(start, stop, *of_features, layer.deltas, *table)
        starts = of_features[1]
        done = (starts[stop] - starts[start] + 2 * (stop - start)) * layer.width
        _count(tally, done, done)


def _count(tally: active.Tally, multiplications: int, additions: int) -> None:
    """Add to a tally what kernels did that keep none, each time with a number that is read."""
    active.add_to(tally, multiplications, additions, 4 * (multiplications or additions))
