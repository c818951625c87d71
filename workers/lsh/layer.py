"""The hash tables of one layer, kept up while its neurons move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from workers.kernels.numbers import Floats, Ids, Offsets
from workers.lsh.codes import EXTRA, FAMILIES, Codes, hash_signs, hash_winners
from workers.lsh.config import LshConfig
from workers.lsh.tables import Tables
from workers.lsh.vectors import mean_of, products, squared_lengths
from workers.threads import Pool, spans

NEURONS = 512
"""Neurons that a task hashes."""


class Vectors(NamedTuple):
    """Some vectors of which only what is not zero is said."""

    begins: Offsets
    """(n,) where each one begins in `ids` and `values`."""
    counts: Ids
    """(n,) how many coordinates are said; all of them: no id is read."""
    ids: Ids
    """(…,) which."""
    values: Floats
    """(…,) what they are."""


class Neurons(Protocol):
    """The weights of a layer, as its optimiser leaves them."""

    width: int
    """Of the layer."""
    inputs: int
    """Of a neuron."""
    biases: Floats
    """(width,)."""

    def vectors(self, which: Ids) -> Vectors:
        """Return the weights of some neurons."""

    def mean(self) -> Floats:
        """Return the mean (inputs,) over all neurons."""


@dataclass(frozen=True, slots=True)
class Work:
    """What hashing took."""

    multiplications: int = 0
    additions: int = 0
    """And comparisons."""

    def __add__(self, other: Work) -> Work:
        return Work(self.multiplications + other.multiplications, self.additions + other.additions)


class HashedLayer:
    """Who is near to what in one layer.

    Args:
        neurons: of the layer.
        config: how they are hashed.
        seed: of the family.
        codes: (L, width) uint16: those of the neurons, part of a checkpoint, changed in place.
        offset: (inputs + EXTRA,) float32: what all neurons have in common, and the square of the
            greatest length; likewise.
        centre: (inputs,) float32: what all inputs have in common; likewise.
        pool: threads.
    """

    def __init__(
        self,
        neurons: Neurons,
        config: LshConfig,
        seed: int,
        codes: Codes,
        offset: Floats,
        centre: Floats,
        pool: Pool,
    ) -> None:
        bits = config.bits_for(neurons.width)
        self.width = neurons.width
        self.tables = Tables(codes, bits, pool)
        make = FAMILIES[config.family]
        self._family = make(neurons.inputs, tables=config.tables, bits=bits, seed=seed)
        self._neurons = neurons
        self._config = config
        self._probes = config.probes_for(neurons.width)
        self._offset = offset
        self._centre = centre
        self._pool = pool

    def centre_on(self, inputs: Vectors) -> Work:
        """Take note of inputs like those to come: their mean is what all have in common.

        Neurons must be hashed anew before any are asked for.
        """
        mean_of(*inputs, self._centre)
        return Work(0, int(inputs.counts.sum()))

    def rebuild(self) -> Work:
        """Hash all neurons anew."""
        mean = self._neurons.mean()
        self._offset[:-EXTRA] = mean
        self._offset[-EXTRA] = self._neurons.biases.mean() + mean @ self._centre
        everyone = np.arange(self._neurons.width, dtype=np.int32)
        if self._config.asymmetric:
            squares = np.empty(len(everyone), np.float32)

            def measure(start: int, stop: int) -> None:
                vectors, extra, _ = self._weights(everyone[start:stop])
                squares[start:stop] = self._squares(vectors, extra)

            self._pool.run(measure, spans(len(everyone), NEURONS))
            self._offset[-1] = squares.max()
        work = self._write_codes(everyone, self.tables.codes)
        self.tables.build()
        return work

    def move(self, touched: Ids) -> Work:
        """Hash some neurons anew."""
        codes, work = self.codes_of(touched)
        self.tables.move(touched, codes)
        return work

    def codes_of(self, which: Ids) -> tuple[Codes, Work]:
        """Return the codes (L, m) that some neurons have with their present weights."""
        codes = np.empty((self._config.tables, len(which)), np.uint16)
        return codes, self._write_codes(which, codes)

    def _write_codes(self, which: Ids, codes: Codes) -> Work:
        out = codes.T[:, :, None]
        done = []
        offset = self._offset.copy()
        # The last coordinate makes all equally long after the others are centred.
        offset[-1] = 0

        def work(start: int, stop: int) -> None:
            vectors, extra, multiplied = self._weights(which[start:stop])
            if self._config.asymmetric:
                short = self._offset[-1] - self._squares(vectors, extra)
                extra[:, 1] = np.sqrt(np.maximum(short, 0))
            additions = self._hash(vectors, extra, offset, out[start:stop])
            done.append(Work(multiplied, multiplied + additions))

        self._pool.run(work, spans(len(which), NEURONS))
        return sum(done, Work())

    def ask(self, vectors: Vectors) -> tuple[Codes, int]:
        """Return the codes (n, L, probes) that neurons near to some inputs have, and additions."""
        extra = np.zeros((len(vectors.counts), EXTRA), np.float32)
        extra[:, 0] = 1
        out = np.empty((len(extra), self._config.tables, self._probes), np.uint16)
        centre = np.concatenate([self._centre, np.zeros(EXTRA, np.float32)])
        return out, self._hash(vectors, extra, centre, out)

    def _weights(self, which: Ids) -> tuple[Vectors, Floats, int]:
        """Return the weights of some neurons, their extra coordinates, and multiplications."""
        vectors = self._neurons.vectors(which)
        extra = np.zeros((len(which), EXTRA), np.float32)
        # What a neuron makes of the inputs' mean, which is taken away from them.
        bias = self._neurons.biases[which]
        done = int(products(*vectors, self._centre, bias))
        extra[:, 0] = bias
        return vectors, extra, done

    def _hash(self, vectors: Vectors, extra: Floats, centre: Floats, out: Codes) -> int:
        family, given = self._family, (*vectors, extra, centre)
        if self._config.family == "winners":
            return int(hash_winners(*given, family.windows, family.bits, out))
        how = family.folds, family.fold_signs, family.flips, family.bits
        return int(hash_signs(*given, *how, out))

    def _squares(self, vectors: Vectors, extra: Floats) -> Floats:
        """Return the squared lengths (m,) of some centred neurons."""
        out = np.empty(len(extra), np.float32)
        squared_lengths(*vectors, extra, self._offset, out)
        return out
