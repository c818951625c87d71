"""Parquet shards as an endless supply of shuffled tables that can resume exactly.

The order of an epoch is a pure function of (seed, world, epoch) and the shards'
metadata. Row groups are permuted; a few are read side by side, in slices, until
a block is full; the rows of a block are permuted. Blocks have the same number
of rows whatever the size of the files' row groups, so memory depends on
`data.block_rows` alone. What is read is hashed, so that it must be the same
every time; what cannot be trained on stops the world, or is left out.
"""

from workers.shards.checks import check_rows, check_type
from workers.shards.content import Content, merge_content
from workers.shards.files import ShardSet, read_table
from workers.shards.left_out import LeftOut, LeftOuts, read_left_out
from workers.shards.order import LANES, Position, Slice, plan_epoch, steps_per_epoch
from workers.shards.reading import Block, shuffled_blocks, tables_in_order
from workers.shards.records import dense_width

__all__ = [
    "LANES",
    "Block",
    "Content",
    "LeftOut",
    "LeftOuts",
    "Position",
    "ShardSet",
    "Slice",
    "check_rows",
    "check_type",
    "dense_width",
    "merge_content",
    "plan_epoch",
    "read_left_out",
    "read_table",
    "shuffled_blocks",
    "steps_per_epoch",
    "tables_in_order",
]
