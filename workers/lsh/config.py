"""How a layer's neurons are hashed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WINDOW_BITS = 3
"""Of a digit that says which of eight coordinates is the highest."""
MOST_BITS = 16
"""Of a code."""
HELD = 32
"""Neurons that a bucket holds on average, unless another length of codes is asked for."""
MOST_TABLES = 127
"""What a neuron's votes are counted to."""


@dataclass(frozen=True, kw_only=True)
class LshConfig:
    """How the neurons that a row computes are found; see `workers.lsh`."""

    family: Literal["signs", "winners"] = "signs"
    """What codes are made of: `signs` of random projections, or `winners` of windows."""
    bits: int | None = None
    """Length b of a code: a table has 2^b buckets; null: so that one holds some 32 neurons."""
    tables: int = 127
    """How many tables L."""
    probes: int | None = None
    """Buckets that a row looks into in each table: its own, and those of the likeliest other
    codes; null: 2, or 4 where the rows of a batch share what they find."""
    candidates: int = 1
    """Neurons that tables name for each that is active, where rows have sets of their own; of
    those, the ones with the highest activations are."""
    asymmetric: bool = False
    """Whether all neurons are made equally long before they are hashed."""
    shared: bool = False
    """Whether the rows of a batch share the buckets that they compute; hidden layers are computed
    whole then."""
    predict: Literal["dense", "tables"] = "dense"
    """Whether prediction computes all neurons, or those that hash tables name, as in training."""
    narrowest: int = 1000
    """Width from which on a layer is hashed; narrower ones are computed whole."""
    rebuild_steps: int = 16
    """Steps after which all neurons are hashed anew for the first time."""
    rebuild_growth: float = 1.25
    """By how much longer it takes each time."""

    def bits_for(self, width: int) -> int:
        """Return b for a layer of so many neurons."""
        if self.bits is not None:
            return self.bits
        bits = min(MOST_BITS, max(1, (width // HELD).bit_length() - 1))
        # Winners are told by three bits each.
        return bits if self.family == "signs" else max(WINDOW_BITS, bits - bits % WINDOW_BITS)

    def probes_for(self, width: int) -> int:
        """Return how many buckets a row looks into in a table of so many neurons."""
        if self.probes is not None:
            return self.probes
        return min(4 if self.shared else 2, self._digits(width) + 1)

    def _digits(self, width: int) -> int:
        """Return what a code is made of: another code differs in one of them."""
        bits = self.bits_for(width)
        return bits // WINDOW_BITS if self.family == "winners" else bits

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        found = []
        bits = self.bits_for(self.narrowest)
        if not 1 <= bits <= MOST_BITS:
            found.append(f"model.lsh.bits: expected 1 to {MOST_BITS}, found {bits}")
        if self.family == "winners" and bits % WINDOW_BITS:
            found.append(
                f"model.lsh.bits: expected a multiple of {WINDOW_BITS} for"
                f" model.lsh.family=winners, found {self.bits}"
            )
        most = self._digits(self.narrowest) + 1
        if self.probes is not None and not 1 <= self.probes <= most:
            found.append(f"model.lsh.probes: expected 1 to {most}, found {self.probes}")
        if self.candidates < 1:
            found.append(f"model.lsh.candidates: expected at least 1, found {self.candidates}")
        if not 1 <= self.tables <= MOST_TABLES:
            found.append(f"model.lsh.tables: expected 1 to {MOST_TABLES}, found {self.tables}")
        if self.shared and self.predict != "dense":
            found.append(
                "model.lsh.predict: expected dense for model.lsh.shared=true, as a query has no"
                f" batch to share with, found {self.predict}"
            )
        if self.narrowest < 2:
            found.append(f"model.lsh.narrowest: expected at least 2, found {self.narrowest}")
        if self.rebuild_steps < 1:
            found.append(
                f"model.lsh.rebuild_steps: expected at least 1, found {self.rebuild_steps}"
            )
        if not self.rebuild_growth >= 1:
            found.append(
                f"model.lsh.rebuild_growth: expected at least 1, found {self.rebuild_growth}"
            )
        return found
