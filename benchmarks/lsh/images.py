"""Small images that a network tells apart: tall from wide, convex from not, and digits.

Rectangles and convex sets follow Larochelle, Erhan, Courville, Bergstra and Bengio, "An empirical
evaluation of deep architectures on problems with many factors of variation", ICML 2007, sections
4.2 and 4.3: white on black, 28 by 28 pixels. What the paper leaves open is said below. The digits
are those that ship with scikit-learn, 8 by 8 pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from benchmarks.datasets import CACHE, BenchmarkSet

SIDE = 28
LEAST_DIFFERENCE = 3
"""Pixels between a rectangle's height and width, at least."""
LEAST_PIXELS = 19
"""Of a set: smaller ones are drawn again."""
MOST_PLANES, MOST_PARTS = 6, 3
"""Half-planes that are intersected, and convex sets that are united, at most; at least two."""
ROWS = {"rectangles": (12_000, 50_000), "convex": (8_000, 50_000)}
"""Of training and test, as Spring and Shrivastava (KDD 2017) have them, table 1."""

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Grid = NDArray[np.bool_]


def rectangles(rows: int, seed: int) -> tuple[Images, Labels]:
    """Return outlines of rectangles (n, 784), and whether they are taller than wide (n,).

    Height and width are uniform, and drawn again where they differ by less than
    `LEAST_DIFFERENCE`; so is the place, such that the rectangle fits.
    """
    rng = np.random.default_rng((seed, 1))
    images, labels = np.zeros((rows, SIDE, SIDE), np.float32), np.empty(rows, np.int64)
    for row in range(rows):
        height, width = rng.integers(1, SIDE + 1, 2)
        while abs(height - width) < LEAST_DIFFERENCE:
            height, width = rng.integers(1, SIDE + 1, 2)
        top, left = rng.integers(0, SIDE - height + 1), rng.integers(0, SIDE - width + 1)
        bottom, right = top + height - 1, left + width - 1
        images[row, [top, bottom], left : right + 1] = 1
        images[row, top : bottom + 1, [left, right]] = 1
        labels[row] = height > width
    return images.reshape(rows, -1), labels


def convex(rows: int, seed: int) -> tuple[Images, Labels]:
    """Return sets of pixels (n, 784), and whether they are convex (n,); half of them are.

    A convex set is the intersection of 2 to `MOST_PLANES` half-planes of uniform place and
    direction; one that is not convex the union of 2 to `MOST_PARTS` of these for which some pixel
    between two of its pixels is missing. So that both kinds have as many pixels on average, as the
    paper asks, the parts of a union are drawn until they have at most their share of those.
    """
    rng = np.random.default_rng((seed, 2))
    images, labels = np.empty((rows, SIDE, SIDE), np.float32), rng.permutation(rows) % 2
    for row in range(rows):
        images[row] = _convex_set(rng, 1) if labels[row] else _other_set(rng)
    return images.reshape(rows, -1), labels


def _convex_set(rng: np.random.Generator, parts: int) -> Grid:
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    while True:
        inside = np.ones((SIDE, SIDE), np.bool_)
        for _ in range(rng.integers(2, MOST_PLANES + 1)):
            angle, at = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5, 2) * SIDE
            inside &= np.cos(angle) * (x - at[0]) + np.sin(angle) * (y - at[1]) > 0
        if inside.sum() >= LEAST_PIXELS and (parts == 1 or inside.sum() < SIDE**2 / (2 * parts)):
            return inside


def _other_set(rng: np.random.Generator) -> Grid:
    while True:
        parts = int(rng.integers(2, MOST_PARTS + 1))
        union = _convex_set(rng, parts)
        for _ in range(parts - 1):
            union |= _convex_set(rng, parts)
        if not is_convex(union):
            return union


def is_convex(pixels: Grid) -> bool:
    """Return whether the pixels on the lines between a set's pixels are in it, or beside it."""
    padded = np.pad(pixels, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    # Lines between the pixels at the edge are enough.
    y, x = np.nonzero(pixels & ~inner)
    one, two = np.triu_indices(len(y), 1)
    steps = np.arange(1, 4)[:, None] / 4
    # Between the ends of each pair three points, rounded to pixels: an honest hole is larger.
    between_y = np.rint(y[one] + steps * (y[two] - y[one])).astype(int)
    between_x = np.rint(x[one] + steps * (x[two] - x[one])).astype(int)
    near = padded[1:-1, 1:-1].copy()
    for dy, dx in ((0, 1), (1, 0), (2, 1), (1, 2)):
        near |= padded[dy : dy + SIDE, dx : dx + SIDE]
    return bool(near[between_y, between_x].all())


def digits(rows: int, seed: int) -> tuple[Images, Labels]:
    """Return the 1,797 digits (n, 64), in an order of the seed, and which they are (n,)."""
    found = load_digits()
    order = np.random.default_rng((seed, 3)).permutation(len(found.target))
    return found.data[order].astype(np.float32), found.target[order].astype(np.int64)


def image_set(name: str, seed: int) -> BenchmarkSet:
    """Return a set of images, generated when it is first asked for."""
    folder = CACHE / f"{name}-{seed}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make: Callable[[int, int], tuple[Images, Labels]] = MAKERS[name]
        train, test = ROWS.get(name, (1_297, 500))
        images, labels = make(train + test, seed)
        for part, rows in (("train", slice(train)), ("test", slice(train, train + test))):
            _write(folder / part / "0.parquet", images[rows], labels[rows])
        (folder / "done").touch()
    return BenchmarkSet(
        name=name,
        train=folder / "train",
        test=folder / "test",
        classes=10 if name == "digits" else 2,
        class_names=None,
        indices="pixels",
        values="values",
    )


MAKERS = {"rectangles": rectangles, "convex": convex, "digits": digits}


def _write(path: Path, images: Images, labels: Labels) -> None:
    rows, pixels = np.nonzero(images)
    offsets = np.searchsorted(rows, np.arange(len(images) + 1)).astype(np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "pixels": pa.ListArray.from_arrays(offsets, pixels.astype(np.int32)),
        "values": pa.ListArray.from_arrays(offsets, images[rows, pixels]),
        "labels": labels,
    }
    pq.write_table(pa.table(columns), path)
