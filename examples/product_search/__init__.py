"""A product search of any size, generated: queries and the products that were clicked.

A product is a bundle of words, each drawn from a slot of its own (kind, brand, two attributes,
series) by a hash of its number, so that a catalogue takes no memory. Clicks
fall on products by Zipf's law. A query holds some of its product's words, some of them misspelt
or another product's, so it can be learnt, and what was meant is known.
"""

from examples.product_search.catalogue import Catalogue
from examples.product_search.dataset import write
from examples.product_search.queries import draw

__all__ = ["Catalogue", "draw", "write"]
