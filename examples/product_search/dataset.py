"""Writes clicks as Parquet shards: the same bytes from the same seed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from examples.product_search.catalogue import Catalogue
from examples.product_search.queries import draw

SHARD_ROWS = 1_000_000
GROUP_ROWS = 50_000
_SCHEMA = pa.schema([("query", pa.string()), ("labels", pa.int64())])
_PARTS = {"train": 0, "test": 1}


def write(folder: str | Path, catalogue: Catalogue, *, train: int, test: int) -> None:
    """Write `train/part-NNNNN.parquet` and `test/part-NNNNN.parquet`.

    Args:
        folder: where to write; made if missing.
        catalogue: of the products.
        train: rows to train on.
        test: rows to measure on, drawn from the same clicks.
    """
    for part, rows in (("train", train), ("test", test)):
        for shard, start in enumerate(range(0, rows, SHARD_ROWS)):
            path = Path(folder) / part / f"part-{shard:05}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            count = min(SHARD_ROWS, rows - start)
            with pq.ParquetWriter(path, _SCHEMA, write_page_checksum=True) as file:
                for group, first in enumerate(range(0, count, GROUP_ROWS)):
                    size = min(GROUP_ROWS, count - first)
                    stream = (_PARTS[part], shard, group)
                    file.write_table(draw(catalogue, size, stream))
