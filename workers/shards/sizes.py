"""How large a row is, told by a footer without reading any row."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.parquet as pq

from workers.config import DataConfig, FeaturesConfig
from workers.shards.files import ShardSet

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_OFFSET = 8
"""Bytes in memory for where a text or a list begins."""
_LENGTH = 4
"""Bytes in Parquet for how long a text is."""
_WORDS, _CHARACTERS = 0.15, 0.5
"""Different n-grams that a byte of text brings, for each length of words and of characters: 0.7
of both together on long texts, 1 on short ones, of which fewer repeat."""


@dataclass(frozen=True, kw_only=True)
class RowSize:
    """The average of a row of the columns that a world reads."""

    bytes: float
    """In memory."""
    features: float
    """Once it is hashed; estimated for texts."""


def row_size(shards: ShardSet, data: DataConfig, features: FeaturesConfig) -> RowSize:
    """Return what a row takes, from the footer of the first shard that has rows.

    Texts that repeat are kept once in Parquet and many times in memory: they come to more.
    """
    footer = shards.footer(shards.groups[0].shard)
    rows = max(1, footer.num_rows)
    low, high = features.char_ngrams
    lengths = high - low + 1 if high else 0
    a_byte = _CHARACTERS * lengths + _WORDS * features.word_ngrams
    size = found = 0.0
    for name in data.columns():
        values, stored, text, nested = _column(footer, name)
        width = stored / rows - _LENGTH if text else values / rows
        size += (max(0.0, width) if text else stored / rows) + _OFFSET * (text or nested)
        if name in data.text:
            found += max(1.0, a_byte * width)
        elif name in (data.indices, data.dense):
            found += width
    return RowSize(bytes=size, features=found)


def _column(footer: pq.FileMetaData, name: str) -> tuple[int, int, bool, bool]:
    """Return a column's values, their bytes in memory, whether they are texts, and in lists."""
    values = stored = 0
    text = nested = False
    for group in range(footer.num_row_groups):
        for leaf in range(footer.num_columns):
            chunk = footer.row_group(group).column(leaf)
            if chunk.path_in_schema.split(".")[0] != name:
                continue
            text, nested = chunk.physical_type == "BYTE_ARRAY", "." in chunk.path_in_schema
            values += chunk.num_values
            width = _WIDTHS.get(chunk.physical_type)
            stored += chunk.total_uncompressed_size if width is None else width * chunk.num_values
    return values, stored, text, nested
