from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.kernels.active import keep_highest


@given(
    rows=st.integers(1, 8),
    room=st.integers(1, 20),
    wanted=st.integers(1, 20),
    floor=st.sampled_from([0.0, -math.inf]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_own_neurons_and_the_highest_others_are_kept_in_their_order(
    rows: int, room: int, wanted: int, floor: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(30)[:room] for _ in range(rows)]).astype(np.int32)
    counts = rng.integers(1, room + 1, rows).astype(np.int32)
    # Of few numbers, so that some are equal.
    values = rng.choice([-2.0, -1.0, 0.5, 1.0, 3.0], (rows, room)).astype(np.float32)
    sizes = np.array([rng.integers(0, count + 1) for count in counts])
    mine = [np.sort(ids[row, :size]) for row, size in enumerate(sizes)]
    for row, own in enumerate(mine):
        ids[row, : len(own)] = own
    own = np.concatenate([np.repeat(ids, 2) for ids in mine]).astype(np.int32)
    offsets = np.concatenate([[0], 2 * sizes.cumsum()]).astype(np.int64)
    before = ids.copy(), counts.copy(), values.copy()
    tally = np.zeros(3, np.int64)
    for span in ((0, rows // 2), (rows // 2, rows)):
        keep_highest(*span, offsets, own, wanted, floor, ids, counts, values, tally)
    for row in range(rows):
        named, line = before[0][row, : before[1][row]], before[2][row, : before[1][row]]
        others = sorted(range(sizes[row], len(line)), key=lambda i: -line[i])
        places = sorted(others[: max(0, wanted - sizes[row])])
        places = [*range(sizes[row]), *places]
        assert ids[row, : counts[row]].tolist() == named[places].tolist()
        assert values[row, : counts[row]].tolist() == np.maximum(line[places], floor).tolist()
    assert tally[0] == 0
    assert tally[1] > 0
