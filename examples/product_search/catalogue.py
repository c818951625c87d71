"""The words of every product, as a function of its number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.hashing import derive_seed, mix64
from workers.permutation import Permutation

Ids = NDArray[np.int64]

_SYLLABLES = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]
_SPOKEN = pa.array(_SYLLABLES)
_ENDS = {"kind": "r", "brand": "x", "attribute": "sh", "other_attribute": "ck", "series": "n"}
"""Each slot's words end alike, so that no two slots share a word."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in a product's description."""

    name: str
    words: int
    """How many there are to choose from."""
    skew: float
    """1: all equally likely; larger: the first ones more."""


class Catalogue:
    """K products.

    Args:
        products: K, the number of products.
        seed: of everything that is random.
    """

    def __init__(self, products: int, seed: int = 0) -> None:
        self.products = products
        self.seed = seed
        root = int(products**0.5)
        self.slots = (
            Slot("attribute", 200, 2.0),
            Slot("brand", max(50, root), 2.0),
            Slot("kind", max(100, 2 * root), 2.0),
            Slot("other_attribute", 500, 2.0),
            Slot("series", max(100, products // 20), 1.0),
        )
        self._by_rank = Permutation(products, derive_seed(seed, "popularity"))

    def words(self, slot: int, products: Ids) -> Ids:
        """Return which word of a slot each product has, int64, the shape of `products`."""
        chosen = self.slots[slot]
        key = np.uint64(derive_seed(self.seed, "slot", chosen.name))
        uniform = mix64(products.astype(np.uint64) ^ key).astype(np.float64) / 2.0**64
        return np.minimum((chosen.words * uniform**chosen.skew).astype(np.int64), chosen.words - 1)

    def clicked(self, uniform: NDArray[np.float64]) -> Ids:
        """Return products that are clicked, by Zipf's law with exponent 1.

        The share of the product of rank r is in proportion to 1 / (r + 10).

        Args:
            uniform: numbers in [0, 1), drawn at random.
        """
        flat = 10.0
        rank = flat * ((self.products + flat) / flat) ** uniform - flat
        return self._by_rank.forward(np.minimum(rank.astype(np.int64), self.products - 1))

    def spelt(self, slot: int, words: Ids) -> pa.StringArray:
        """Return how words of a slot (int64, (n,)) are spelt, each of them differently."""
        base = len(_SYLLABLES)
        parts: list[pa.StringArray] = []
        rest = words
        while len(parts) < 2 or rest.any():
            # Two syllables at least; from then on none where nothing is left to say.
            silent = (rest == 0) & (len(parts) >= 2)
            parts.append(_SPOKEN.take(pa.array(rest % base, mask=silent)))
            rest = rest // base
        end = _ENDS[self.slots[slot].name]
        return pc.binary_join_element_wise(*parts, end, "", null_handling="skip")
