"""A training step in which all rows of a batch compute the same buckets.

These are cut out of the network, the dense kernels make a step of what is left, and its weights go
back to where they came from. A set that is shared must be larger than a row's own to serve all
rows; but it takes products of matrices, ten times as fast as those that leap from bucket to bucket,
and an optimiser that moves few weights. A bucket that was left out for some steps makes up for them
first, as if it had no gradient in them: so it ends where the dense network's would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from workers.hashing import derive_seed
from workers.kernels import active
from workers.kernels.active_updates import idle_rows
from workers.kernels.adam import Idle, idle
from workers.kernels.cpu_forward import ROWS, CpuForward, Scratch, bits
from workers.kernels.cpu_steps import CpuSteps
from workers.kernels.numbers import Ids
from workers.kernels.steps import Examples, Tensors
from workers.lsh.active import Active
from workers.lsh.chooser import Chooser
from workers.lsh.layer import Vectors, Work
from workers.lsh.likely import chances, most_likely
from workers.lsh.steps import ROWS as ASKED_ROWS
from workers.threads import Pool, spans

GATHERED = 512
"""Buckets whose weights are copied in one task."""
CANDIDATES = 96
"""Buckets that a row's tables name, and that it computes to tell the best of them."""


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
        chooser: of each row's candidates.
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
        chooser: Chooser,
        pool: Pool,
    ) -> None:
        super().__init__(parameters, loss=loss, relu=relu, bf16=bf16, pool=pool)
        self._steps = {"loss": loss, "relu": relu, "bf16": bf16, "pool": pool}
        self._loss = loss
        self._parameters, self._state = parameters, state
        self._name = f"layer.{self._layers - 1}"
        self._last = state[f"{self._name}.last"].numpy()
        self._wanted = wanted
        self._chooser = chooser
        self._parts, self._inner = Scratch(), Scratch()
        self._candidates: Active | None = None
        self.tally = np.zeros(3, np.int64)
        """What was done so far; see `workers.kernels.active`."""

    def refresh(self) -> None:
        """See `Steps.refresh`."""
        super().refresh()
        self._chooser.reload()

    def train(self, examples: Examples, *, step: int, input_rate: float, rate: float) -> float:
        """See `Steps.train`."""
        hidden, own = self._hidden_of(examples), examples.buckets
        work = self._chooser.begin(step)
        ids, asking = self._choose(hidden, own, step)
        cuts = self._cuts(ids)
        parts = {name: cut.part for name, cut in cuts.items()}
        self._run(cuts, Cut.take)
        self._make_up(parts, idle(rate, self._last[ids], step - 1))
        steps = CpuSteps(
            {name: parts.get(name, tensor) for name, tensor in self._parameters.items()},
            {name: parts.get(name, tensor) for name, tensor in self._state.items()},
            products=[*self._products[:-1], self._product_of(parts)],
            scratch=self._inner,
            **self._steps,  # type: ignore[arg-type]
        )
        inner = replace(examples, buckets=np.searchsorted(ids, own).astype(np.int32))
        loss = steps.train(inner, step=step, input_rate=input_rate, rate=rate)
        self._run(cuts, Cut.give)
        self._last[ids] = step
        none = [_vectors(hidden, 0, 0)] * self._layers
        everyone = _vectors(hidden, 0, len(examples))
        work += self._chooser.end([None] * self._layers + [ids], [*none, everyone])
        self._count(examples, len(ids), work + asking)
        return loss

    def _hidden_of(self, examples: Examples) -> Tensor:
        """Return what the last layer is given."""
        activations = self._activations(examples)
        chunks = spans(len(examples), ROWS)
        self._pool.run(lambda a, b: self._hidden(a, b, examples, activations), chunks)
        return activations[-2]

    def _choose(self, hidden: Tensor, own: Ids, step: int) -> tuple[Ids, Work]:
        """Return the buckets of a batch, and what it took to find them."""
        rows, width = len(hidden), len(self._last)
        room = min(CANDIDATES, width)
        if self._candidates is None or len(self._candidates.counts) < rows:
            self._candidates = Active.empty(rows, width, room, whole=False)
        named = self._candidates.first(rows)
        nobody = np.zeros(rows + 1, np.int64), np.empty(0, np.int32)
        product, bias = bits(self._products[-1]), self._biases[-1]
        softmax, additions = self._loss == "softmax", []

        def work(start: int, stop: int) -> None:
            inputs = _vectors(hidden, start, stop)
            given = self._layers, (start, stop), inputs, nobody, room, named
            additions.append(self._chooser.choose(*given))
            asked = named.ids, named.counts, bits(hidden), product, bias, softmax
            chances(start, stop, *asked, named.values)

        self._pool.run(work, spans(rows, ASKED_ROWS))
        begin = derive_seed("others", step) % width
        found = named.ids, named.counts, named.values
        ids = most_likely(*found, own, self._wanted, begin, width)
        pairs = rows * room
        of_loss = active.OF_LOSS[self._loss]
        products = pairs * hidden.shape[1]
        return ids, Work(
            products + of_loss[0] * pairs,
            sum(additions) + products + (of_loss[1] + 1) * pairs + 2 * width,
        )

    def _make_up(self, parts: Tensors, steps: Idle) -> None:
        """Let the buckets of a step make up for those that they left out."""
        weight, bias = f"{self._name}.weight", f"{self._name}.bias"
        tasks = []
        for name, copy in ((weight, self._product_of(parts)), (bias, parts[bias])):
            of = parts[name], copy, parts[f"{name}.first"], parts[f"{name}.second"]
            arrays = [bits(tensor).reshape(len(steps.moves), -1) for tensor in of]
            chunks = spans(len(steps.moves), GATHERED)
            tasks += [(idle_rows, (*chunk, *arrays, *steps)) for chunk in chunks]
        self._pool.run_tasks(tasks)

    def _product_of(self, parts: Tensors) -> Tensor:
        """Return the last layer's part as products take it."""
        return parts.get("product", parts[f"{self._name}.weight"])

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
        # Hidden layers were computed once more, as the choice is made by what they give; and what
        # buckets make up for has a root.
        again = len(examples.ids) * hidden[0] + len(examples) * _weights(hidden)
        moved = buckets * (hidden[-1] + 1)
        multiplications = again + work.multiplications + 4 * moved
        additions = again + work.additions + 2 * moved
        active.add_to(self.tally, multiplications, additions, 4 * (multiplications + additions))


def _vectors(hidden: Tensor, start: int, stop: int) -> Vectors:
    """Return some rows of a layer's inputs as vectors."""
    values, width = hidden[start:stop].float().reshape(-1).numpy(), hidden.shape[1]
    begins = np.arange(stop - start, dtype=np.int64) * width
    return Vectors(begins, np.full(stop - start, width, np.int32), np.empty(0, np.int32), values)


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
