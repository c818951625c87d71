"""The order of rows: a pure function of (seed, world, epoch) and the shards' metadata."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.hashing import derive_seed
from workers.permutation import Permutation

LANES = 4
"""Row groups that are read side by side into one block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a stream goes on: the next row to hand out."""

    epoch: int = 0
    block: int = 0
    row: int = 0
    """Rows of the block that were handed out, in its shuffled order."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows [start, start + rows) of one row group."""

    shard: int
    group: int
    start: int
    rows: int


def plan_epoch(
    groups: Sequence[Slice], *, block_rows: int, seed: int, world: int, epoch: int
) -> list[list[Slice]]:
    """Return the blocks of an epoch, each a list of slices.

    Every block but the last has exactly `block_rows` rows. The slices of one row
    group come in order, so that each is read in one go.
    """
    order = Permutation(len(groups), derive_seed(seed, world, "row groups", epoch))
    waiting = deque(groups[i] for i in order.forward(np.arange(len(groups))))
    lanes = deque(waiting.popleft() for _ in range(min(LANES, len(waiting))))
    largest = max(1, block_rows // LANES)
    blocks: list[list[Slice]] = []
    room = 0
    while lanes:
        if room == 0:
            blocks.append([])
            room = block_rows
        piece = lanes.popleft()
        taken = min(piece.rows, largest, room)
        blocks[-1].append(Slice(piece.shard, piece.group, piece.start, taken))
        room -= taken
        if piece.rows > taken:
            lanes.append(Slice(piece.shard, piece.group, piece.start + taken, piece.rows - taken))
        elif waiting:
            lanes.append(waiting.popleft())
    return blocks


def steps_per_epoch(rows: int, *, block_rows: int, batch_size: int) -> int:
    """Return how many batches an epoch has; the last of a block may be short."""
    full, rest = divmod(rows, block_rows)
    return full * -(-block_rows // batch_size) + -(-rest // batch_size)
