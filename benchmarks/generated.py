"""Generated sets, written when they are first asked for."""

from __future__ import annotations

import shutil

from benchmarks.datasets import CACHE, BenchmarkSet
from examples.product_search import Catalogue, write


def product_search(name: str, classes: int, *, train: int, test: int) -> BenchmarkSet:
    """Return the clicks of a product search.

    Args:
        name: of its folder in the cache.
        classes: K, the products.
        train: rows.
        test: rows.
    """
    folder = CACHE / name
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, Catalogue(classes), train=train, test=test)
        (folder / "done").touch()
    return BenchmarkSet(
        name=name,
        train=folder / "train",
        test=folder / "test",
        classes=classes,
        class_names=None,
        text=("query",),
    )
