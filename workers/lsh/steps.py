"""A training step in which each row computes its active neurons only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from workers.kernels import active, cpu
from workers.kernels import active_updates as updates
from workers.kernels.adam import unbiased
from workers.kernels.cpu_forward import CpuForward
from workers.kernels.cpu_steps import Unbiased
from workers.kernels.losses import bce_gradient, softmax_gradient
from workers.kernels.numbers import Floats, Ids, Offsets
from workers.kernels.steps import Examples, Rows, Tensors
from workers.lsh.active import Active, Touched
from workers.lsh.chooser import Chooser
from workers.lsh.layer import Vectors, Work
from workers.threads import Pool, Task, spans

ROWS = 64
"""Rows of a batch in one task."""
NEURONS = 256
"""Neurons whose activations are computed in one task."""
PARTS = 8
"""Tasks that go back through a layer, each with its own sum of gradients."""
FEATURES = 256
"""Features of the input layer in one task."""


class ActiveSteps(CpuForward):
    """Compiled kernels that compute active neurons only, in float32.

    Args:
        parameters: contiguous float32 tensors on the CPU, updated in place.
        state: the optimiser's, likewise.
        loss: `softmax` or `bce`.
        relu: whether hidden layers are rectified; else they are linear.
        wanted: active neurons of a row in each layer, B the last; its width, if all are.
        candidates: how many neurons the chooser names for each that is then active: those of the
            highest activations are.
        chooser: of those.
        pool: where tasks run.
        kept: as for `CpuForward`.
        by_tables: whether probabilities are those of active neurons too.
    """

    def __init__(
        self,
        parameters: Tensors,
        state: Tensors,
        *,
        loss: str,
        relu: bool,
        wanted: list[int],
        candidates: int = 1,
        chooser: Chooser,
        pool: Pool,
        kept: Mapping[int, int] | None = None,
        by_tables: bool = False,
    ) -> None:
        super().__init__(parameters, loss=loss, relu=relu, bf16=False, pool=pool, kept=kept)
        self._by_tables = by_tables
        self._relu = relu
        self._loss_name = loss
        self._wanted = wanted
        widths = [len(bias) for bias in self._biases]
        self._named = [min(w, n * candidates) for w, n in zip(widths, wanted, strict=True)]
        self._chooser = chooser
        self._arrays = {name: tensor.numpy() for name, tensor in (parameters | state).items()}
        self._touches = [
            state[f"{name}.touches"].numpy() if f"{name}.touches" in state else None
            for name in ("input", *(f"layer.{layer}" for layer in range(self._layers)))
        ]
        """By layer, in how many steps each neuron was active; None: in all."""
        self._held: list[Active] = []
        self.tally = np.zeros(3, np.int64)
        """What was done so far; see `workers.kernels.active`."""

    def refresh(self) -> None:
        """See `Steps.refresh`."""
        self._chooser.reload()

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        most = int(np.diff(examples.label_offsets).max(initial=0))
        layers = self._room(len(examples), most)
        _add(self.tally, self._chooser.begin(step))
        touched = self._activate(examples, layers, (examples.label_offsets, examples.buckets))
        losses = np.empty(len(examples), np.float32)
        rows = spans(len(examples), ROWS)
        self._run([(self._loss, (span, examples, layers[-1], losses)) for span in rows])
        for index in range(len(layers) - 1, 0, -1):
            found = touched[index]
            assert found is not None
            self._layer_back(index, layers, found, self._unbiased(index, found, step, rate))
        first = self._unbiased(0, touched[0], step, rate)
        self._run(self._input_tasks(examples, layers[0], touched[0], input_rate, first))
        for counts, found in zip(self._touches, touched, strict=True):
            if counts is not None and found is not None:
                counts[found.neurons] += 1
        moved = [None if found is None else found.neurons for found in touched]
        everyone = 0, len(examples)
        inputs = [_features(examples, *everyone)]
        inputs += [layer.vectors(*everyone) for layer in layers[:-1]]
        _add(self.tally, self._chooser.end(moved, inputs))
        return float(np.dot(losses.astype(np.float64), examples.scale.astype(np.float64)))

    def hash_all(self) -> None:
        """Let the chooser get ready without a step: to predict with weights that stay."""
        self._chooser.begin(1)

    def probabilities(self, rows: Rows) -> Tensor:
        """See `Steps.probabilities`; by tables, buckets that are not active have 0."""
        if not self._by_tables:
            return super().probabilities(rows)
        layers = self._room(len(rows), 0)
        self._activate(rows, layers, None)
        last, count = layers[-1], self._wanted[-1]
        # Rows of a batch that was learnt may have had more, for all of their labels.
        logits = np.ascontiguousarray(last.values[:, :count])
        found, nothing = np.empty_like(logits), np.zeros(count, np.float32)
        self._squash(0, len(rows), logits, nothing, found)
        out = np.zeros((len(rows), last.width), np.float32)
        np.put_along_axis(out, last.ids[:, :count].astype(np.int64), found, axis=1)
        return torch.from_numpy(out)

    def _activate(
        self, rows: Rows, layers: list[Active], own: tuple[Offsets, Ids] | None
    ) -> list[Touched | None]:
        """Choose and compute the active neurons of all layers; return who is active where."""
        chunks = spans(len(rows), ROWS)
        self._run([(self._input_forward, (span, rows, layers[0])) for span in chunks])
        touched = [None if layers[0].whole else layers[0].touched()]
        for index in range(1, len(layers)):
            is_last = index == len(layers) - 1
            touched.append(self._layer_forward(index, layers, own if is_last else None))
        return touched

    def _unbiased(self, index: int, touched: Touched | None, step: int, rate: float) -> Unbiased:
        """Return what the neurons of a layer that a step touched are updated with."""
        counts = self._touches[index]
        if touched is None or counts is None:
            neurons = len(self._biases[index]) if touched is None else len(touched.neurons)
            return unbiased(rate, np.full(neurons, step - 1, np.int32))
        return unbiased(rate, counts[touched.neurons])

    def _run(self, tasks: list[Task]) -> None:
        """Run tasks, each with a tally of its own at the end, and add those up."""
        tallies = np.zeros((len(tasks), 3), np.int64)
        self._pool.run_tasks(
            [(work, (*given, tally)) for (work, given), tally in zip(tasks, tallies, strict=True)]
        )
        self.tally += tallies.sum(0)

    def _room(self, rows: int, labels: int) -> list[Active]:
        """Return room for rows with at most so many labels, kept between steps."""
        widths = [len(bias) for bias in self._biases]
        rooms = [*self._named[:-1], min(widths[-1], max(self._named[-1], labels))]
        held = self._held
        if not held or held[-1].ids.shape[1] < rooms[-1] or len(held[0].counts) < rows:
            shapes = zip(widths, rooms, self._wanted, strict=True)
            held = [Active.empty(rows, w, room, whole=w == n) for w, room, n in shapes]
            # Logits turn into gradients in place.
            held[-1] = replace(held[-1], deltas=held[-1].values)
            self._held = held
        return [layer.first(rows) for layer in held]

    def _layer_forward(
        self, index: int, layers: list[Active], own: tuple[Offsets, Ids] | None
    ) -> Touched:
        before, layer = layers[index - 1], layers[index]
        self._run(
            [
                (self._choose, (span, index, before.vectors(*span), own, layer))
                for span in spans(len(before.counts), ROWS)
            ]
        )
        touched = layer.touched()
        given = *touched, *before.inputs, *self._weights(index), self._first_floor(index)
        chunks = spans(len(touched.neurons), NEURONS)
        self._run([(active.layer_active, (*chunk, *given, layer.values)) for chunk in chunks])
        if not self._keeps(index):
            return touched
        kept = index, layer, own or _nobody(layer)
        self._run([(self._keep_highest, (span, *kept)) for span in spans(len(layer.counts), ROWS)])
        return layer.touched()

    def _keeps(self, index: int) -> bool:
        """Return whether more neurons of a layer are named than stay active."""
        return self._named[index] > self._wanted[index]

    def _floor_of(self, index: int) -> float:
        """Return the least activation of a layer."""
        return -math.inf if index == self._layers else self._floor

    def _first_floor(self, index: int) -> float:
        """Return the least activation before the highest are kept: they are told by all of it."""
        return -math.inf if self._keeps(index) else self._floor_of(index)

    def _keep_highest(
        self,
        span: tuple[int, int],
        index: int,
        layer: Active,
        own: tuple[Offsets, Ids],
        tally: active.Tally,
    ) -> None:
        how = self._wanted[index], self._floor_of(index)
        active.keep_highest(*span, *own, *how, layer.ids, layer.counts, layer.values, tally)

    def _layer_back(
        self, index: int, layers: list[Active], touched: Touched, steps: Unbiased
    ) -> None:
        before, layer = layers[index - 1], layers[index]
        neurons, name = len(touched.neurons), f"layer.{index - 1}"
        chunks = spans(neurons, -(-neurons // PARTS))
        parts = self._scratch.get("parts", (len(chunks), *before.values.shape), torch.float32)
        weight, _ = self._weights(index)
        moments = self._moments(f"{name}.weight")
        self._run(
            [
                (self._part, (chunk, touched, layer, before, part, weight, moments, steps))
                for chunk, part in zip(chunks, parts.numpy(), strict=True)
            ]
            + [self._bias_task(f"{name}.bias", layer, touched, (0, neurons), steps)]
        )
        inputs = before.counts, before.values
        self._run(
            [
                (updates.add_parts, (*span, parts.numpy(), *inputs, self._relu, before.deltas))
                for span in spans(len(before.counts), ROWS)
            ]
        )

    @staticmethod
    def _part(
        chunk: tuple[int, int],
        touched: Touched,
        layer: Active,
        before: Active,
        part: Floats,
        weight: Floats,
        moments: tuple[Floats, Floats],
        steps: Unbiased,
        tally: active.Tally,
    ) -> None:
        part[:] = 0
        given = *chunk, *touched, layer.deltas, *before.inputs, part, weight
        updates.back_active(*given, *moments, *steps, tally)

    def _input_forward(
        self, span: tuple[int, int], rows: Rows, layer: Active, tally: active.Tally
    ) -> None:
        weight, bias = self._arrays["input.weight"], self._biases[0]
        given = *span, rows.offsets, rows.ids, rows.values, weight, bias
        if layer.whole:
            cpu.embedding_bag(*given, self._floor, layer.values)
            features = rows.offsets[span[1]] - rows.offsets[span[0]]
            _count(tally, features * layer.width, features * layer.width)
            return
        self._choose(span, 0, _features(rows, *span), None, layer, tally)
        active.bag_active(*given, self._first_floor(0), *layer.inputs, tally)
        if self._keeps(0):
            self._keep_highest(span, 0, layer, _nobody(layer), tally)

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
        own = own or _nobody(layer)
        done = self._chooser.choose(index, span, inputs, own, self._named[index], layer)
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
        chosen = *span, layer.values, layer.counts, *labels
        some(*chosen, tally)

    def _weights(self, index: int) -> tuple[Floats, Floats]:
        name = f"layer.{index - 1}"
        return self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]

    def _moments(self, name: str) -> tuple[Floats, Floats]:
        return self._arrays[f"{name}.first"], self._arrays[f"{name}.second"]

    def _input_tasks(
        self,
        examples: Examples,
        layer: Active,
        found: Touched | None,
        input_rate: float,
        steps: Unbiased,
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
                (self._whole_bias, (layer, steps)),
                *((self._whole_rows, (*span, of_features, layer, table)) for span in parts),
            ]
        chosen = layer.ids, layer.counts, layer.deltas
        return [
            self._bias_task("input.bias", layer, found, (0, len(found.neurons)), steps),
            *((updates.adagrad_active, (*span, *of_features, *chosen, *table)) for span in parts),
        ]

    def _bias_task(
        self,
        name: str,
        layer: Active,
        found: Touched,
        span: tuple[int, int],
        steps: Unbiased,
    ) -> Task:
        given = *span, *found, layer.deltas, self._arrays[name], *self._moments(name), *steps
        return updates.adam_active_bias, given

    def _whole_bias(self, layer: Active, steps: Unbiased, tally: active.Tally) -> None:
        bias, moments = self._arrays["input.bias"], self._moments("input.bias")
        cpu.adam_bias(0, layer.width, layer.deltas, bias, *moments, *steps)
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


def _features(rows: Rows, start: int, stop: int) -> Vectors:
    """Return the features of some rows as vectors."""
    offsets = rows.offsets[start : stop + 1]
    counts = np.diff(offsets).astype(np.int32)
    return Vectors(offsets[:-1], counts, rows.ids, rows.values)


def _nobody(layer: Active) -> tuple[Offsets, Ids]:
    """Return that no row has neurons that are active in any case."""
    return np.zeros(len(layer.counts) + 1, np.int64), np.empty(0, np.int32)


def _add(tally: active.Tally, work: Work) -> None:
    """Add what hashing took to a tally."""
    _count(tally, work.multiplications, work.additions)


def _count(tally: active.Tally, multiplications: int, additions: int) -> None:
    """Add to a tally what kernels did that keep none, each time with a number that is read."""
    active.add_to(tally, multiplications, additions, 4 * (multiplications or additions))
