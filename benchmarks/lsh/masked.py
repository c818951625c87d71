"""Active buckets by products of whole matrices: faster where a large share is active."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from workers.jit import kernel
from workers.kernels.active import OF_LOSS, bce_active, softmax_active
from workers.kernels.cpu_steps import CpuSteps, Unbiased
from workers.kernels.numbers import ZERO, Floats, Ids, Numbers, Offsets, as_stored, load
from workers.kernels.steps import Examples, Tensors
from workers.lsh.active import Active
from workers.lsh.chooser import Chooser
from workers.lsh.layer import Vectors, Work
from workers.lsh.steps import PARTS
from workers.threads import Pool, Task, spans


@kernel
def gather(
    start: int, stop: int, logits: Numbers, bias: Floats, ids: Ids, counts: Ids, values: Floats
) -> None:
    """Write the logits of each row's active neurons, with their biases."""
    for row in range(start, stop):
        for i in range(counts[row]):
            values[row, i] = load(logits[row, ids[row, i]]) + bias[ids[row, i]]


@kernel
def scatter(
    start: int, stop: int, values: Floats, ids: Ids, counts: Ids, used: Any, out: Numbers
) -> None:
    """Write the gradient at all neurons, zero where one is not active, and mark who is."""
    for row in range(start, stop):
        line = out[row]
        line[:] = as_stored(line, ZERO)
        for i in range(counts[row]):
            line[ids[row, i]] = as_stored(line, values[row, i])
            used[ids[row, i]] = True


class MaskedSteps(CpuSteps):
    """What `workers.lsh.steps.ActiveSteps` computes in a world of one hidden layer, all of it.

    All logits are computed, and those of buckets that are not active left out of the loss.

    Args:
        parameters: as for `CpuSteps`.
        state: likewise, with `layer.0.touches`.
        loss: likewise.
        relu: likewise.
        bf16: likewise.
        wanted: active buckets of a row.
        chooser: of those.
        pool: likewise.
    """

    def __init__(
        self,
        parameters: Tensors,
        state: Tensors,
        *,
        loss: str,
        relu: bool,
        bf16: bool,
        wanted: int,
        chooser: Chooser,
        pool: Pool,
    ) -> None:
        super().__init__(parameters, state, loss=loss, relu=relu, bf16=bf16, pool=pool)
        self._loss_name = loss
        self._wanted = wanted
        self._chooser = chooser
        self._gradient = self._active_gradient
        self._touches = self._arrays["layer.0.touches"]
        self._used = np.zeros(len(self._touches), np.bool_)
        """Buckets that some row of a batch has active."""
        self._active = Active.empty(0, len(self._touches), 0, whole=False)
        self._compared: list[int] = []
        """Additions and comparisons of a step's choices."""
        self.tally = np.zeros(3, np.int64)
        """What kernels for active sets would have done; see `workers.kernels.active`."""

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        self._make_room(examples)
        self._compared.clear()
        self._used[:] = False
        works = [self._chooser.begin(step)]
        loss = super().train(examples, step=step, input_rate=input_rate, rate=rate)
        self._touches[self._used] += 1
        hidden = self._inputs(0, len(examples))
        moved = np.flatnonzero(self._used).astype(np.int32)
        works += [Work(0, sum(self._compared)), self._chooser.end([None, moved], [hidden] * 2)]
        self._count(examples, works)
        return loss

    def _make_room(self, examples: Examples) -> None:
        most = int(np.diff(examples.label_offsets).max(initial=0))
        room, held = min(len(self._used), max(self._wanted, most)), self._active
        if held.ids.shape[1] < room or len(held.counts) < len(examples):
            self._active = Active.empty(len(examples), len(self._used), room, whole=False)
        self._hidden_outputs = self._buffer("activation", 0, examples)

    def _inputs(self, start: int, stop: int) -> Vectors:
        """Return what the buckets are computed from, in some rows."""
        values = self._hidden_outputs[start:stop].float().numpy()
        rows, width = values.shape
        begins, counts = np.arange(rows, dtype=np.int64) * width, np.full(rows, width, np.int32)
        ids = np.tile(np.arange(width, dtype=np.int32), rows)
        return Vectors(begins, counts, ids, values.reshape(-1))

    def _active_gradient(
        self,
        start: int,
        stop: int,
        logits: Numbers,
        bias: Floats,
        offsets: Offsets,
        buckets: Ids,
        scale: Floats,
        losses: Floats,
    ) -> None:
        span, own, active = (start, stop), (offsets, buckets), self._active
        chosen = active.ids, active.counts
        inputs = self._inputs(*span)
        self._compared.append(self._chooser.choose(1, span, inputs, own, self._wanted, active))
        gather(*span, logits, bias, *chosen, active.values)
        loss = softmax_active if self._loss_name == "softmax" else bce_active
        loss(*span, active.values, active.counts, *own, scale, losses, np.zeros(3, np.int64))
        scatter(*span, active.values, *chosen, self._used, logits)

    def _steps_before(self, layer: int, step: int) -> Ids:
        return self._touches if layer == 1 else super()._steps_before(layer, step)

    def _update(
        self,
        start: int,
        stop: int,
        layer: int,
        inputs: Tensor,
        delta: Tensor,
        steps: Unbiased,
    ) -> None:
        for run in self._runs(start, stop):
            super()._update(*run, layer, inputs, delta, steps)

    def _bias_task(self, name: str, delta: Tensor, span: tuple[int, int], steps: Unbiased) -> Task:
        work, (start, stop, *given) = super()._bias_task(name, delta, span, steps)
        if name == "input.bias":
            return work, (start, stop, *given)

        def update() -> None:
            for run in self._runs(start, stop):
                work(*run, *given)

        return update, ()

    def _runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the spans of buckets, between two, that some row has active."""
        steps = np.diff(self._used[start:stop].astype(np.int8), prepend=0, append=0)
        first, last = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
        return list(zip((start + first).tolist(), (start + last).tolist(), strict=True))

    def _count(self, examples: Examples, works: list[Work]) -> None:
        """Add to the tally what kernels for active sets do in such a step, in their order."""
        rows, width = len(examples), len(self._biases[0])
        moved, active = int(self._used.sum()), int(self._active.counts[:rows].sum())
        products, weights = active * width, moved * width
        loss, more_loss = (active * each for each in OF_LOSS[self._loss_name])
        parts = len(spans(moved, -(-moved // PARTS))) * rows * width
        features = len(examples.ids) * width
        changed = features + 2 * len(examples.features) * width
        hashing = ((work.multiplications, work.additions) for work in works)
        self.tally += np.array(
            [
                *((done, more, 4 * (done or more)) for done, more in hashing),
                (features, features, 4 * features),
                (products, products + active, 4 * products + 4 * weights + 8 * active),
                (loss, more_loss, 12 * active),
                (2 * products, 2 * products, 12 * products),
                (7 * weights, 4 * weights, 24 * weights),
                (0, parts, 4 * parts + 8 * rows * width),
                (7 * moved, active + 4 * moved, 4 * active + 24 * moved),
                (7 * width, rows * width, 28 * width),
                (changed, changed, 4 * changed),
            ]
        ).sum(0)
