"""How many buckets and worlds keep classes apart: B and R from K.

Two things go wrong where classes share buckets. Classes that share a bucket in every world
cannot be told apart at all (`confusion`), and a class's score has in it the probability of the
others in its buckets (`deviation`). Both fall with B and R; the bounds say how far.

The source is Medini et al., "Extreme Classification in Log Memory using Count-Min Sketch",
NeurIPS 2019, section 3.1: theorem 1 is the unbiased estimator, theorem 2 that R = 2 log(K /
sqrt(delta)) / log B worlds keep all pairs of classes apart with a probability of 1 - delta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

CONFUSION = 0.001
"""The chance that any two classes share all of their buckets, at most, where nobody asks."""
DEVIATION = 0.01
"""The standard deviation of a class's estimated probability, at most, likewise."""
WORLDS = 8
"""Worlds to begin with: on most sets that were measured here the curve over R is nearly flat from
there on, and 8 of the paper's 32 worlds have 97 % of their recall."""
MOST_BUCKETS = 16_384
"""Buckets from which on a step's time goes into the output layer and grows as B does."""
CLASSES_A_BUCKET = 4
"""The fewest that hashing pays for."""

Kind = Literal["permutation", "hash"]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far apart R worlds of B buckets keep K classes."""

    buckets: int
    worlds: int
    confusion: float
    """The chance that any two classes share all of their buckets, at most."""
    deviation: float
    """The standard deviation of a class's estimated probability, at most."""
    least_for_confusion: int
    """Worlds that keep `confusion` under the bound that was asked for."""
    least_for_deviation: int
    """Worlds that keep `deviation` under it."""

    @property
    def least(self) -> int:
        """Worlds that keep both."""
        return max(self.least_for_confusion, self.least_for_deviation)


def collision(classes: int, buckets: int, kind: Kind = "permutation") -> float:
    """Return q, the chance that two of `classes` share a bucket in one world.

    1/B under hashing; (K/B - 1)/(K - 1) where all buckets hold K/B classes, and where B does not
    divide K, and some hold one more than others, what their pairs come to.
    """
    if kind == "hash":
        return 1 / buckets
    fewest, more = divmod(classes, buckets)
    pairs = buckets * fewest * (fewest - 1) / 2 + more * fewest
    return pairs / (classes * (classes - 1) / 2)


def confusion(classes: int, buckets: int, worlds: int, kind: Kind = "permutation") -> float:
    """Return the chance that any two classes share all of their buckets, at most.

    K (K - 1) / 2 pairs, each with a chance of q^R, by the union bound (theorem 2).
    """
    pairs = classes * (classes - 1) / 2
    return min(1.0, pairs * collision(classes, buckets, kind) ** worlds)


def deviation(classes: int, buckets: int, worlds: int, kind: Kind = "permutation") -> float:
    """Return the standard deviation of a class's estimated probability, at most.

    With p_j the true probabilities, the estimator (mean over worlds of the bucket's probability
    - q) / (1 - q) of theorem 1 has the variance q (1 - q) / R / (1 - q)^2 times the sum of the
    other classes' p_j^2, which is at most 1: sqrt(q / (1 - q) / R) is the worst, where all
    probability is another class's. Partitions alone are random in it, the worlds' own errors not
    counted.
    """
    q = collision(classes, buckets, kind)
    return math.sqrt(q / (1 - q) / worlds)


def bounds(
    classes: int,
    buckets: int,
    worlds: int | None = None,
    *,
    kind: Kind = "permutation",
    most_confusion: float = CONFUSION,
    most_deviation: float = DEVIATION,
) -> Bounds:
    """Return how far apart worlds keep classes, and how many worlds it takes.

    Args:
        classes: K.
        buckets: B.
        worlds: R; None: as many as both bounds take, and no fewer than `WORLDS`.
        kind: of the partitions.
        most_confusion: the bound on `confusion`.
        most_deviation: the bound on `deviation`.
    """
    q = collision(classes, buckets, kind)
    pairs = classes * (classes - 1) / 2
    if q == 0:
        # A bucket for each class: nothing is shared.
        by_confusion = by_deviation = 1
    else:
        by_confusion = _whole(math.log(pairs / most_confusion) / -math.log(q))
        by_deviation = _whole(q / (1 - q) / most_deviation**2)
    least = max(by_confusion, by_deviation)
    chosen = max(WORLDS, least) if worlds is None else worlds
    return Bounds(
        buckets=buckets,
        worlds=chosen,
        confusion=confusion(classes, buckets, chosen, kind),
        deviation=deviation(classes, buckets, chosen, kind),
        least_for_confusion=by_confusion,
        least_for_deviation=by_deviation,
    )


def buckets_for(classes: int) -> int:
    """Return a number of buckets B to begin with, for `classes`.

    A quarter of K, no more than `MOST_BUCKETS`. Theory would have few buckets and many worlds, as
    cost grows with R B and the power to tell classes apart with B^R; but a world of few buckets
    learns little of its rows, and the sets that were measured here want B large.
    """
    return max(2, min(classes // CLASSES_A_BUCKET, MOST_BUCKETS))


def _whole(worlds: float) -> int:
    # What is a whole number but for rounding is one.
    return max(1, math.ceil(worlds - 1e-9))
