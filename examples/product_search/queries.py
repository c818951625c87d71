"""Queries, drawn from the words of the products that were clicked for them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from examples.product_search.catalogue import Catalogue

KEPT = (0.5, 0.6, 0.85, 0.4, 0.6)
"""How often a query names the product's word of each slot."""
FOREIGN = 0.04
"""Share of a query's words that are another product's."""
MISSPELT = 0.05
"""Share of a query's words that lack a letter."""

Flags = NDArray[np.bool_]


def draw(catalogue: Catalogue, rows: int, stream: tuple[int, ...]) -> pa.Table:
    """Return clicks: columns `query` (string) and `labels` (int64, the product).

    Args:
        catalogue: of the products.
        rows: how many.
        stream: numbers that seed these rows; others give others.
    """
    random = np.random.Generator(np.random.PCG64([catalogue.seed, *stream]))
    products = catalogue.clicked(random.random(rows))
    texts = []
    named = _named(random, rows)
    for slot in range(len(catalogue.slots)):
        others = np.where(
            random.random(rows) < FOREIGN, catalogue.clicked(random.random(rows)), products
        )
        right = catalogue.spelt(slot, catalogue.words(slot, others))
        # The third letter is the one that is left out: the first ones are those of few.
        letters = pc.utf8_slice_codeunits(right, 0, 2), pc.utf8_slice_codeunits(right, 3)
        wrong = pc.binary_join_element_wise(*letters, "")
        misspelt = random.random(rows) < MISSPELT
        texts.append(pc.if_else(named[slot], pc.if_else(misspelt, wrong, right), None))
    query = pc.binary_join_element_wise(*texts, " ", null_handling="skip")
    return pa.table({"query": query, "labels": products})


def _named(random: np.random.Generator, rows: int) -> list[Flags]:
    named = [random.random(rows) < share for share in KEPT]
    # A query without words would say nothing: it names the kind.
    kind = KEPT.index(max(KEPT))
    named[kind] |= ~np.logical_or.reduce(named)
    return named
