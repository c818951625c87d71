"""How far Adam's moments are from what they estimate, by how many steps they gathered.

Moments start at zero: after t steps the first has 1 - 0.9^t and the second 1 - 0.999^t of what they
estimate (Kingma and Ba 2015, section 3). A neuron that some steps leave alone gathers fewer than
the network makes, and its own count is what corrects its moments.

Or it may move on as if it had no gradient in those steps, as Adam moves all that has a history, and
that be made up for when it is next looked at: a sum over the steps in between that is known.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.kernels.numbers import Floats, Ids

_MOST = 1 << 15
"""Steps from which on nothing is left to correct in float32."""
_STEPS = np.arange(1, _MOST + 1, dtype=np.float64)
_OF_RATE, _CORRECTIONS = 1 / (1 - 0.9**_STEPS), 1 / np.sqrt(1 - 0.999**_STEPS)
_FADES = 0.9 / np.sqrt(0.999)
"""What a step without a gradient leaves of the first moment over the root of the second."""


@functools.cache
def _still_to_come() -> NDArray[np.float64]:
    """Return how far what has no more gradient will move after step t, t from 0.

    In units of the rate, where the moments at t are 1. Backwards from the last step, after which
    nothing is corrected any more: the next step's part, and what is still to come after it.
    """
    to_come = np.empty(_MOST + 1)
    to_come[_MOST] = _FADES / (1 - _FADES)
    for step in range(_MOST - 1, -1, -1):
        to_come[step] = _FADES * (_OF_RATE[step] / _CORRECTIONS[step] + to_come[step + 1])
    return to_come


class Idle(NamedTuple):
    """What some neurons do in steps in which nothing was asked of them; see `idle`."""

    moves: Floats
    """(n,) how often a weight moves by its first moment over the root of its second."""
    firsts: Floats
    """(n,) what is left of its first moment."""
    seconds: Floats
    """(n,) and of its second."""


def idle(rate: float, last: Ids, now: int) -> Idle:
    """Return what Adam does to neurons that have no gradient after step `last`, to step `now`.

    Args:
        rate: the learning rate, taken for that of all these steps.
        last: (n,) the last step in which each had a gradient; 0: none.
        now: at least as late.
    """
    gap = np.maximum(now - last, 0).astype(np.float64)
    to_come = _still_to_come()
    come, left = to_come[np.minimum(last, _MOST)], _FADES**gap * to_come[min(now, _MOST)]
    with np.errstate(over="ignore"):
        moves = (rate * (come - left)).astype(np.float32)
    return Idle(moves, (0.9**gap).astype(np.float32), (0.999**gap).astype(np.float32))


def unbiased(rate: float, before: Ids) -> tuple[Floats, Floats]:
    """Return what kernels update each of some neurons with.

    Args:
        rate: the learning rate.
        before: (n,) steps that each one made before this.

    Returns:
        The rate over 1 - 0.9^t, and 1 / sqrt(1 - 0.999^t), both (n,) float32.
    """
    at = np.minimum(before, _MOST - 1)
    # A rate that float32 does not hold is infinite: the loss that follows tells.
    with np.errstate(over="ignore"):
        return (rate * _OF_RATE[at]).astype(np.float32), _CORRECTIONS[at].astype(np.float32)
