"""Hash codes of neurons, and of what they are asked: vectors at a small angle share more of them.

A code has one number of b bits for each of L tables. Two families make them:

- `signs`: a bit is the sign of a projection on a random vector (Charikar, "Similarity estimation
  techniques from rounding algorithms", STOC 2002). As many projections as a vector has coordinates
  are made at once, by a Hadamard transform of the vector with random signs (Ailon and Chazelle,
  STOC 2006): in sums, and without products. A vector that is wider than `WIDEST` is folded to that
  width first, with random signs (Weinberger et al., "Feature hashing", ICML 2009).
- `winners`: three bits say which of eight coordinates is the highest (winner-take-all hashing,
  Yagnik et al., ICCV 2011); where all eight are zero, another window says it (densified, Chen and
  Shrivastava, UAI 2018).

Neurons are asked for the largest inner product, not for the smallest angle. So what all weight
vectors share is taken away first, which ranks them the same for any input; and so is what all
inputs share, for what a neuron makes of that is a number that can be added to its bias. The bias is
a coordinate for which the input has a 1; and one more coordinate makes all neurons equally long,
for which the input has a 0 (Neyshabur and Srebro, ICML 2015), where `asymmetric` asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.hashing import derive_seed
from workers.jit import inline, kernel
from workers.kernels.numbers import ZERO, Floats, Ids, Offsets
from workers.lsh.config import WINDOW_BITS

Codes = NDArray[np.uint16]

WIDEST = 1024
"""Of a transform."""
LANES = 16
"""Vectors that are transformed side by side."""
WINDOW = 1 << WINDOW_BITS
"""Coordinates that one winner is found among."""
BORROWED = 8
"""Windows that an empty one looks into before it is given up."""
EXTRA = 2
"""Coordinates beside a vector's own: for the bias, and for the length."""


@dataclass(frozen=True, slots=True)
class Family:
    """Random choices that turn vectors into codes.

    Attributes:
        tables: L.
        bits: b.
        folds: (width + EXTRA,) the place in a transform that each coordinate is added to.
        fold_signs: likewise, with which sign.
        flips: (rounds, transform) the signs of each transform, for `signs`; else empty.
        windows: (L * b / WINDOW_BITS, WINDOW) coordinates, for `winners`; else empty.
    """

    tables: int
    bits: int
    folds: Ids
    fold_signs: Floats
    flips: Floats
    windows: Ids


def signed_projections(width: int, *, tables: int, bits: int, seed: int) -> Family:
    """Return a family of signs."""
    rng = np.random.default_rng(derive_seed(seed, "signs"))
    transform = min(WIDEST, 1 << (width - 1).bit_length())
    folds = rng.integers(0, transform, width + EXTRA).astype(np.int32)
    signs = _random_signs(rng, width + EXTRA)
    if width <= transform:
        # Each has a place of its own, but for the extra ones.
        folds[:width] = np.arange(width)
    rounds = -(-tables * bits // transform)
    flips = _random_signs(rng, rounds * transform).reshape(rounds, transform)
    return Family(tables, bits, folds, signs, flips, np.empty((0, WINDOW), np.int32))


def window_winners(width: int, *, tables: int, bits: int, seed: int) -> Family:
    """Return a family of winners; `bits` is a multiple of `WINDOW_BITS`."""
    rng = np.random.default_rng(derive_seed(seed, "winners"))
    count = tables * bits // WINDOW_BITS
    if width < WINDOW:
        places = rng.integers(0, width, count * WINDOW)
    else:
        # Windows cut from permutations: all coordinates are in equally many.
        rounds = -(-count * WINDOW // width)
        places = np.concatenate([rng.permutation(width) for _ in range(rounds)])
    windows = places[: count * WINDOW].reshape(count, WINDOW).astype(np.int32)
    none = np.empty(0, np.float32)
    return Family(tables, bits, np.empty(0, np.int32), none, none.reshape(0, 1), windows)


FAMILIES = {"signs": signed_projections, "winners": window_winners}


def _random_signs(rng: np.random.Generator, count: int) -> Floats:
    return rng.choice(np.array([-1, 1], np.float32), count)


@kernel
def hash_signs(
    begins: Offsets,
    counts: Ids,
    ids: Ids,
    values: Floats,
    extra: Floats,
    centre: Floats,
    folds: Ids,
    fold_signs: Floats,
    flips: Floats,
    bits: int,
    out: Codes,
) -> int:
    """Write the codes of n vectors by the signs of their projections.

    Args:
        begins: (n,) where each vector's coordinates begin in `ids` and `values`.
        counts: (n,) how many of them are said; the others are zero.
        ids: which; of a vector that has all of them none is read.
        values: what they are.
        extra: (n, EXTRA) further coordinates.
        centre: (width + EXTRA,) what is taken away, of coordinates that are not said too.
        folds: of the family, as the others.
        fold_signs: likewise.
        flips: likewise.
        bits: b.
        out: (n, L, probes) written: for each table the vector's own code, and then those in which
            one bit is the other, the least certain first.

    Returns:
        Additions and comparisons.
    """
    rounds, transform = flips.shape
    probes = out.shape[2]
    vectors = np.empty((transform, LANES), np.float32)
    projections = np.empty((rounds * transform, LANES), np.float32)
    nothing = np.zeros(transform, np.float32)
    for c in range(len(centre)):
        nothing[folds[c]] -= fold_signs[c] * centre[c]
    sums = np.empty(LANES, np.float32)
    codes, used = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    least, where = np.empty(LANES, np.float32), np.empty(LANES, np.int32)
    steps = 0
    while transform >> steps > 1:
        steps += 1
    additions = len(centre)
    for start in range(0, len(counts), LANES):
        lanes = min(LANES, len(counts) - start)
        for i in range(transform):
            vectors[i] = nothing[i]
        here = slice(start, start + lanes)
        additions += _fill(
            begins[here], counts[here], ids, values, extra[here], folds, fold_signs, vectors
        )
        for turn in range(rounds):
            mine = projections[turn * transform : (turn + 1) * transform]
            _transform(vectors.reshape(-1), flips[turn], mine.reshape(-1))
        additions += lanes * rounds * transform * steps
        for table in range(out.shape[1]):
            mine = projections[table * bits : (table + 1) * bits]
            # As float32, which holds them: sums of these are taken side by side.
            sums[:] = ZERO
            for i in range(bits):
                line, power = mine[i], np.float32(1 << i)
                for lane in range(LANES):
                    sums[lane] += power if line[lane] > ZERO else ZERO
            used[:] = 0
            for lane in range(lanes):
                codes[lane] = np.int32(sums[lane])
                out[start + lane, table, 0] = codes[lane]
            for probe in range(1, probes):
                least[:], where[:] = np.inf, 0
                for i in range(bits):
                    for lane in range(LANES):
                        margin = abs(mine[i, lane])
                        less = margin < least[lane] and (used[lane] >> i) & 1 == 0
                        least[lane] = margin if less else least[lane]
                        where[lane] = i if less else where[lane]
                for lane in range(LANES):
                    used[lane] |= 1 << where[lane]
                for lane in range(lanes):
                    out[start + lane, table, probe] = codes[lane] ^ (1 << where[lane])
            additions += lanes * bits * probes
    return additions


@inline
def _fill(
    begins: Any,
    counts: Any,
    ids: Any,
    values: Any,
    extra: Any,
    folds: Any,
    fold_signs: Any,
    vectors: Any,
) -> Any:
    """Add vectors, folded, to columns; return additions."""
    lanes, width, added = len(counts), len(folds) - extra.shape[1], 0
    whole = True
    for lane in range(lanes):
        whole &= counts[lane] == width
        added += counts[lane] + extra.shape[1]
    if whole:
        # Coordinate by coordinate, as they are written side by side.
        for c in range(width):
            fold, sign = folds[c], fold_signs[c]
            for lane in range(lanes):
                vectors[fold, lane] += sign * values[begins[lane] + c]
    else:
        for lane in range(lanes):
            for i in range(begins[lane], begins[lane] + counts[lane]):
                c = i - begins[lane] if counts[lane] == width else ids[i]
                vectors[folds[c], lane] += fold_signs[c] * values[i]
    for lane in range(lanes):
        for e in range(extra.shape[1]):
            c = width + e
            vectors[folds[c], lane] += fold_signs[c] * extra[lane, e]
    return added


@inline
def _transform(vectors: Any, flips: Any, out: Any) -> None:
    """Write the Hadamard transforms of vectors, a column each, whose signs are flipped first.

    All are flat. The first rounds have their distances written out, and later ones are long, so
    that the compiler sees that nothing overlaps and works side by side.
    """
    length = out.shape[0]
    for i in range(flips.shape[0]):
        flip = flips[i]
        source, target = vectors[i * LANES : (i + 1) * LANES], out[i * LANES : (i + 1) * LANES]
        for lane in range(LANES):
            target[lane] = flip * source[lane]
    half = LANES
    while half < length:
        for p in range(0, length, 2 * half):
            one, two = out[p : p + half], out[p + half : p + 2 * half]
            for j in range(half):
                a, b = one[j], two[j]
                one[j] = a + b
                two[j] = a - b
        half *= 2


@kernel
def hash_winners(
    begins: Offsets,
    counts: Ids,
    ids: Ids,
    values: Floats,
    extra: Floats,
    centre: Floats,
    windows: Ids,
    bits: int,
    out: Codes,
) -> int:
    """Write the codes of n vectors by the winners of windows.

    Args: as for `hash_signs`, but for
        extra: not asked: what all have in common ranks none before another.
        windows: of the family.

    Returns:
        Additions and comparisons.
    """
    total, width, probes = len(windows), len(centre) - extra.shape[1], out.shape[2]
    digits = bits // WINDOW_BITS
    vector = np.empty(width, np.float32)
    best, second = np.empty(total, np.int32), np.empty(total, np.int32)
    margins, empty = np.empty(total, np.float32), np.empty(total, np.bool_)
    additions = 0
    for row in range(len(counts)):
        vector[:] = ZERO
        begin, count = begins[row], counts[row]
        for i in range(count):
            c = i if count == width else ids[begin + i]
            vector[c] = values[begin + i]
        for window in range(total):
            _find_winners(vector, centre, windows[window], window, best, second, margins, empty)
        for window in range(total):
            if empty[window]:
                _borrow(window, best, second, margins, empty)
        for table in range(out.shape[1]):
            first = table * digits
            code = 0
            for i in range(digits):
                code |= best[first + i] << (WINDOW_BITS * i)
            out[row, table, 0] = code
            for probe in range(1, probes):
                least = first + np.argmin(margins[first : first + digits])
                change = best[least] ^ second[least]
                out[row, table, probe] = code ^ (change << (WINDOW_BITS * (least - first)))
                margins[least] = np.inf
        additions += total * (3 * WINDOW + probes)
    return additions


@inline
def _find_winners(
    vector: Any,
    centre: Any,
    window: Any,
    place: Any,
    best: Any,
    second: Any,
    margins: Any,
    empty: Any,
) -> None:
    first_value, second_value = np.float32(-np.inf), np.float32(-np.inf)
    first, other = 0, 0
    nothing = True
    for i in range(window.shape[0]):
        nothing &= vector[window[i]] == ZERO
        value = vector[window[i]] - centre[window[i]]
        if value > first_value:
            second_value, other = first_value, first
            first_value, first = value, i
        elif value > second_value:
            second_value, other = value, i
    best[place], second[place], empty[place] = first, other, nothing
    margins[place] = first_value - second_value


@inline
def _borrow(window: Any, best: Any, second: Any, margins: Any, empty: Any) -> None:
    # By the same rule for all vectors, so that those with the same gaps borrow alike.
    place = np.uint64(window)
    for _ in range(BORROWED):
        place = place * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        other = np.int64((place >> np.uint64(33)) % np.uint64(best.shape[0]))
        if not empty[other]:
            best[window], second[window] = best[other], second[other]
            margins[window] = margins[other]
            break
