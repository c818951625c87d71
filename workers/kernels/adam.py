"""How far Adam's moments are from what they estimate, by how many steps they gathered.

Moments start at zero: after t steps the first has 1 - 0.9^t and the second 1 - 0.999^t of what they
estimate (Kingma and Ba 2015, section 3). A neuron that some steps leave alone gathers fewer than
the network makes, and its own count is what corrects its moments.
"""

from __future__ import annotations

import numpy as np

from workers.kernels.numbers import Floats, Ids

_MOST = 1 << 15
"""Steps from which on nothing is left to correct in float32."""
_STEPS = np.arange(1, _MOST + 1, dtype=np.float64)
_OF_RATE, _CORRECTIONS = 1 / (1 - 0.9**_STEPS), 1 / np.sqrt(1 - 0.999**_STEPS)


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
