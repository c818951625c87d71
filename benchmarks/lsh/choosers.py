"""What hash tables are compared with: other ways to choose the neurons that a row computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from workers.hashing import GOLDEN, mix64_jit
from workers.jit import kernel
from workers.kernels.losses import is_new
from workers.kernels.numbers import Floats, Ids, Offsets
from workers.kernels.steps import Tensors
from workers.lsh.active import Active
from workers.lsh.chooser import Chooser
from workers.lsh.layer import Vectors, Work

_SHIFT = np.uint32(20)
"""What is left of 32 bits tells numbers apart by sign, exponent and three bits more."""
_GOLDEN, _ONE, _S31, _S33 = np.uint64(GOLDEN), np.uint64(1), np.uint64(31), np.uint64(33)


@kernel
def _least_of_highest(line: Any, count: Any) -> Any:
    """Return the least of the `count` highest of some float32 numbers."""
    # Most are told apart by their first bits, which is quicker than a partition of all.
    bits = line.view(np.uint32)
    keys = np.empty(len(line), np.uint16)
    counts = np.zeros(1 << 12, np.int64)
    for i in range(len(line)):
        # In the order of the numbers: of negative ones, larger bits are less.
        ordered = ~bits[i] if bits[i] >> np.uint32(31) else bits[i] | np.uint32(1 << 31)
        keys[i] = ordered >> _SHIFT
        counts[keys[i]] += 1
    key = len(counts) - 1
    while counts[key] < count:
        count -= counts[key]
        key -= 1
    same = line[keys == key]
    return np.partition(same, len(same) - count)[len(same) - count]


@kernel
def take_highest(scores: Floats, offsets: Offsets, own: Ids, ids: Ids, counts: Ids) -> None:
    """Write each row's own neurons, ascending, and then the highest others, ascending.

    Args:
        scores: (n, width) float32; overwritten.
        offsets: (n + 1,) of `own`.
        own: ascending in each row, perhaps repeated.
        ids: (at least n, room) int32, written.
        counts: (at least n,) how many are wanted; where a row's own are more, becomes as many.
    """
    nothing = np.float32(-np.inf)
    for row in range(len(scores)):
        line, found, at = scores[row], ids[row], 0
        for position in range(offsets[row], offsets[row + 1]):
            if is_new(own, offsets[row], position):
                found[at] = own[position]
                line[own[position]] = nothing
                at += 1
        room = counts[row] - at
        counts[row] = max(counts[row], at)
        if room <= 0:
            continue
        least = _least_of_highest(line, room)
        ties = room - (line > least).sum()
        for neuron in range(len(line)):
            tie = line[neuron] == least and ties > 0
            if tie or line[neuron] > least:
                ties -= int(tie)
                found[at] = neuron
                at += 1


@kernel
def take_at_random(
    width: int, offsets: Offsets, own: Ids, seed: np.uint64, ids: Ids, counts: Ids
) -> None:
    """Write each row's own neurons, ascending, and then others at random, ascending.

    By selection sampling (Knuth, TAOCP 2, section 3.4.2, algorithm S).

    Args:
        width: how many neurons there are.
        offsets: as for `take_highest`.
        own: likewise.
        seed: of what is random.
        ids: as for `take_highest`.
        counts: likewise.
    """
    is_own = np.zeros(width, np.bool_)
    state = seed
    for row in range(len(offsets) - 1):
        found, at = ids[row], 0
        for position in range(offsets[row], offsets[row + 1]):
            if is_new(own, offsets[row], position):
                found[at] = own[position]
                is_own[own[position]] = True
                at += 1
        left, room = np.uint64(width - at), np.int64(counts[row] - at)
        counts[row] = max(counts[row], at)
        for neuron in range(width):
            if room <= 0:
                break
            if is_own[neuron]:
                continue
            state += _GOLDEN
            drawn = np.int64(((mix64_jit(state) >> _S33) * left) >> _S31)
            found[at] = neuron
            taken = int(drawn < room)
            at += taken
            room -= taken
            left -= _ONE
        for position in range(offsets[row], offsets[row + 1]):
            is_own[own[position]] = False


class Compared(Chooser, ABC):
    """A choice for each row by itself: what it has active in any case, and others."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._step = 0

    def reload(self) -> None:
        """See `Chooser.reload`."""

    def begin(self, step: int) -> Work:
        """See `Chooser.begin`."""
        self._step = step
        return Work()

    def end(self, touched: list[Ids | None], inputs: list[Vectors]) -> Work:
        """See `Chooser.end`."""
        return Work()

    def choose(
        self,
        layer: int,
        span: tuple[int, int],
        inputs: Vectors,
        own: tuple[Offsets, Ids],
        wanted: int,
        chosen: Active,
    ) -> int:
        """See `Chooser.choose`."""
        start, stop = span
        offsets, labels = own
        rng = np.random.default_rng((self._seed, self._step, layer, start))
        chosen.counts[start:stop] = self.counts(wanted, chosen.width, stop - start, rng)
        mine = offsets[start : stop + 1], labels
        found = chosen.ids[start:], chosen.counts[start:]
        self.take(layer, inputs, chosen.width, mine, rng, found)
        return 0

    def counts(self, wanted: int, width: int, rows: int, rng: np.random.Generator) -> Offsets:
        """Return how many neurons of each row are active."""
        return np.full(rows, wanted)

    @abstractmethod
    def take(
        self,
        layer: int,
        inputs: Vectors,
        width: int,
        own: tuple[Offsets, Ids],
        rng: np.random.Generator,
        found: tuple[Ids, Ids],
    ) -> None:
        """Write ids of some rows, as many as their counts say, or their own if these are more.

        Args:
            layer: 0 for the input layer.
            inputs: of these rows.
            width: of the layer.
            own: (n + 1,) offsets, and the neurons that each has active in any case.
            rng: for what is random.
            found: ids and counts, these rows' first.
        """


class AtRandom(Compared):
    """Chooses as many neurons at random."""

    def take(
        self,
        layer: int,
        inputs: Vectors,
        width: int,
        own: tuple[Offsets, Ids],
        rng: np.random.Generator,
        found: tuple[Ids, Ids],
    ) -> None:
        """See `Compared.take`."""
        take_at_random(width, *own, rng.integers(1 << 64, dtype=np.uint64), *found)


class Dropout(AtRandom):
    """Leaves each neuron out by itself (Srivastava et al., JMLR 2014).

    Args:
        seed: of what is drawn.
        share: of the neurons that stay on average; `wanted` is the most that there is room for.
    """

    def __init__(self, seed: int, share: float) -> None:
        super().__init__(seed)
        self._share = share

    def counts(self, wanted: int, width: int, rows: int, rng: np.random.Generator) -> Offsets:
        """See `Compared.counts`."""
        return np.clip(rng.binomial(width, self._share, rows), 1, wanted)


class Winners(Compared):
    """Chooses those that really are the highest: all of them are computed for it.

    Args:
        parameters: of the network.
        bf16: whether products are taken in bf16.
    """

    def __init__(self, parameters: Tensors, *, bf16: bool = False) -> None:
        super().__init__(0)
        self._parameters = parameters
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._products: Tensors = {}

    def begin(self, step: int) -> Work:
        """See `Chooser.begin`."""
        self._products = {
            name: parameter.to(self._dtype)
            for name, parameter in self._parameters.items()
            if name.startswith("layer.") and name.endswith(".weight")
        }
        return super().begin(step)

    def take(
        self,
        layer: int,
        inputs: Vectors,
        width: int,
        own: tuple[Offsets, Ids],
        rng: np.random.Generator,
        found: tuple[Ids, Ids],
    ) -> None:
        """See `Compared.take`."""
        take_highest(self._scores(layer, inputs), *own, *found)

    def _scores(self, layer: int, inputs: Vectors) -> Floats:
        """Return the activations of all neurons for some rows, before they are rectified."""
        rows, ends = np.arange(len(inputs.counts)), np.cumsum(inputs.counts)
        owners = np.repeat(rows, inputs.counts)
        places = np.arange(len(owners)) + np.repeat(
            inputs.begins - ends + inputs.counts, inputs.counts
        )
        ids, values = inputs.ids[places], torch.from_numpy(inputs.values[places])
        if layer == 0:
            sums = functional.embedding_bag(
                torch.from_numpy(ids).long(),
                self._parameters["input.weight"],
                torch.from_numpy(ends - inputs.counts),
                mode="sum",
                per_sample_weights=values,
            )
            return (sums + self._parameters["input.bias"]).numpy()
        name = f"layer.{layer - 1}"
        weight = self._products[f"{name}.weight"]
        x = torch.zeros(len(rows), weight.shape[1])
        x[owners, ids] = values
        products = (x.to(self._dtype) @ weight.T).float()
        return products.add_(self._parameters[f"{name}.bias"]).numpy()


CHOOSERS = ("hashing", "random", "winners", "dropout")
"""`hashing` is the project's own; the others are here."""
