"""A training step in which all rows of a batch compute the same buckets.

These are cut out of the network, the dense kernels make a step of what is left, and its weights go
back to where they came from. A set that is shared must be larger than a row's own to serve all
rows; but it takes products of matrices, ten times as fast as those that leap from bucket to bucket,
and an optimiser that moves few weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from workers.kernels import active
from workers.kernels.cpu_forward import ROWS, CpuForward, Scratch
from workers.kernels.cpu_steps import CpuSteps
from workers.kernels.numbers import Ids
from workers.kernels.steps import Examples, Tensors
from workers.lsh.layer import Vectors, Work
from workers.threads import Pool, spans

GATHERED = 512
"""Buckets whose weights are copied in one task."""

Inputs = Callable[[int, int], Vectors]
"""The inputs of a layer for rows [start, stop)."""


class SharedChooser(Protocol):
    """Chooses the buckets of a batch."""

    def reload(self) -> None:
        """Take over a state that was changed from outside."""

    def begin(self, step: int) -> Work:
        """Prepare for a step, numbered from 1."""

    def share(
        self, layer: int, rows: int, inputs: Inputs, own: Ids, wanted: int
    ) -> tuple[Ids, int]:
        """Return the neurons of a layer that all rows compute, and additions and comparisons.

        Args:
            layer: 0 for the input layer.
            rows: of the batch.
            inputs: of the layer.
            own: neurons that are among them in any case, perhaps repeated.
            wanted: how many, unless those are more.

        Returns:
            Ids, ascending, and how many additions and comparisons that took.
        """

    def end(self, touched: list[Ids | None], inputs: list[Vectors]) -> Work:
        """Take note of the neurons of each layer that a step moved, and of what it was given."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Some rows of a tensor."""

    whole: Tensor
    rows: Tensor
    part: Tensor

    def take(self, start: int, stop: int) -> None:
        """Copy rows [start, stop) of the part from the whole."""
        torch.index_select(self.whole, 0, self.rows[start:stop], out=self.part[start:stop])

    def give(self, start: int, stop: int) -> None:
        """Copy them back."""
        self.whole[self.rows[start:stop]] = self.part[start:stop]


class SharedSteps(CpuForward):
    """The dense kernels, on the buckets that a batch shares.

    Args:
        parameters: as for `CpuSteps`.
        state: likewise.
        loss: likewise.
        relu: likewise.
        bf16: likewise.
        wanted: buckets that a batch computes.
        chooser: of those.
        pool: as for `CpuSteps`.
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
        chooser: SharedChooser,
        pool: Pool,
    ) -> None:
        super().__init__(parameters, loss=loss, relu=relu, bf16=bf16, pool=pool)
        self._steps = {"loss": loss, "relu": relu, "bf16": bf16, "pool": pool}
        self._loss = loss
        self._parameters, self._state = parameters, state
        self._name = f"layer.{self._layers - 1}"
        self._touches = state[f"{self._name}.touches"].numpy()
        self._wanted = wanted
        self._chooser = chooser
        self._parts, self._inner = Scratch(), Scratch()
        self.tally = np.zeros(3, np.int64)
        """What was done so far; see `workers.kernels.active`."""

    def refresh(self) -> None:
        """See `Steps.refresh`."""
        super().refresh()
        self._chooser.reload()

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        work = self._chooser.begin(step)
        inputs, own = self._inputs(examples), examples.buckets
        given = self._layers, len(examples), inputs, own, self._wanted
        ids, additions = self._chooser.share(*given)
        cuts = self._cuts(ids)
        self._run(cuts, Cut.take)
        parts = {name: cut.part for name, cut in cuts.items()}
        steps = CpuSteps(
            {name: parts.get(name, tensor) for name, tensor in self._parameters.items()},
            {name: parts.get(name, tensor) for name, tensor in self._state.items()},
            products=[*self._products[:-1], parts.get("product", parts[f"{self._name}.weight"])],
            scratch=self._inner,
            before=self._touches[ids],
            **self._steps,  # type: ignore[arg-type]
        )
        places = np.searchsorted(ids, own).astype(np.int32)
        inner = replace(examples, buckets=places)
        loss = steps.train(inner, step=step, input_rate=input_rate, rate=rate)
        self._run(cuts, Cut.give)
        self._touches[ids] += 1
        none = [inputs(0, 0)] * self._layers
        work += self._chooser.end([None] * self._layers + [ids], [*none, inputs(0, len(examples))])
        self._count(examples, len(ids), work + Work(additions=additions))
        return loss

    def _inputs(self, examples: Examples) -> Inputs:
        """Return what the last layer is given."""
        activations = self._activations(examples)
        chunks = spans(len(examples), ROWS)
        self._pool.run(lambda a, b: self._hidden(a, b, examples, activations), chunks)
        hidden = activations[-2]
        width = hidden.shape[1]

        def inputs(start: int, stop: int) -> Vectors:
            values = hidden[start:stop].float().reshape(-1).numpy()
            begins = np.arange(stop - start, dtype=np.int64) * width
            counts = np.full(stop - start, width, np.int32)
            return Vectors(begins, counts, np.empty(0, np.int32), values)

        return inputs

    def _cuts(self, ids: Ids) -> dict[str, Cut]:
        """Return what the buckets of a step have: weights, biases and their moments."""
        rows = torch.from_numpy(ids).long()
        wholes = {"product": self._products[-1]}
        for tensors in (self._parameters, self._state):
            for kind in ("weight", "bias"):
                of = f"{self._name}.{kind}"
                wholes |= {name: whole for name, whole in tensors.items() if name.startswith(of)}
        if wholes["product"] is wholes[f"{self._name}.weight"]:
            del wholes["product"]
        return {
            name: Cut(whole, rows, self._parts.get(name, (len(ids), *whole.shape[1:]), whole.dtype))
            for name, whole in wholes.items()
        }

    def _run(self, cuts: dict[str, Cut], copy: Callable[[Cut, int, int], None]) -> None:
        self._pool.run(
            copy, [(cut, *span) for cut in cuts.values() for span in spans(len(cut.rows), GATHERED)]
        )

    def _count(self, examples: Examples, buckets: int, work: Work) -> None:
        """Add what a step did to the tally."""
        hidden = [len(bias) for bias in self._biases[:-1]]
        count_dense(self.tally, examples, [*hidden, buckets], self._loss)
        # Hidden layers were computed once more, as the choice is made by what they give.
        again = len(examples.ids) * hidden[0] + len(examples) * _weights(hidden)
        multiplications, additions = again + work.multiplications, again + work.additions
        active.add_to(self.tally, multiplications, additions, 4 * (multiplications + additions))


def count_dense(tally: active.Tally, examples: Examples, widths: list[int], loss: str) -> None:
    """Add to a tally what the dense kernels do in a step.

    Args:
        tally: see `workers.kernels.active`.
        examples: of the step.
        widths: of the layers, B the last.
        loss: `softmax` or `bce`.
    """
    rows, features, weights = len(examples), len(examples.ids), _weights(widths)
    table, outputs = len(examples.features) * widths[0], rows * widths[-1]
    # There and back: sums of a feature's rows twice, of a layer's inputs three times.
    products = 2 * features * widths[0] + 3 * rows * weights
    of_loss, moved = active.OF_LOSS[loss], weights + sum(widths)
    multiplications = products + of_loss[0] * outputs + 7 * moved + 2 * table
    additions = products + of_loss[1] * outputs + 4 * moved + 2 * table
    # A matrix is read for each product, and read and written by the optimiser, with its moments.
    numbers = 6 * rows * sum(widths) + 8 * weights + 3 * features * widths[0] + 4 * table
    active.add_to(tally, multiplications, additions, 4 * numbers)


def _weights(widths: list[int]) -> int:
    return sum(one * other for one, other in pairwise(widths))
