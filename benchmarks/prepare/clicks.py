"""Generated clicks, prepared in several ways, each in a process of its own.

    python -m benchmarks.prepare.clicks WAY SOURCE OUT FILE

`manyworlds` is `prepare` in this process and on a local Ray; `ray.data` and `pandas` do what a
person would write by hand with them: read, number the classes in memory, merge equal rows, split by
query, write Parquet.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept import Found
from benchmarks.writing import ROOT
from orchestrator.prepare import PrepareConfig, prepare

_WRITTEN = 200_000
"""Rows that are made at a time."""
_STRIDE = 7919
"""A prime that divides no power of ten."""


def write_clicks(path: Path, rows: int, products: int) -> None:
    """Write a CSV file of queries and names of products; all of them, if rows are as many.

    Args:
        path: of the file.
        rows: how many.
        products: different names; a power of ten.
    """
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("query,product\n")
        for start in range(0, rows, _WRITTEN):
            items = np.arange(start, min(start + _WRITTEN, rows)) * _STRIDE % products
            words = rng.integers(0, 50_000, (len(items), 3))
            lines = (
                f"item {item} w{a} w{b} w{c},product-{item:010d}\n"
                for item, (a, b, c) in zip(items.tolist(), words.tolist(), strict=True)
            )
            file.writelines(lines)


def by_manyworlds(source: Path, out: Path, *, address: str, piece_bytes: int = 64 << 20) -> None:
    """Prepare by `prepare`."""
    config = PrepareConfig(
        source=str(source),
        out=str(out),
        text=("query",),
        labels="product",
        test=0.1,
        piece_bytes=piece_bytes,
    )
    prepare(config, address=address)


def by_pandas(source: Path, out: Path) -> None:
    """Prepare by pandas."""
    import pandas as pd

    table = pd.read_csv(source)
    table["labels"], names = pd.factorize(table.pop("product"))
    table = table.groupby(["query", "labels"], sort=False).size().rename("weight").reset_index()
    is_test = pd.util.hash_array(table["query"].to_numpy()) % 10 == 0
    out.mkdir()
    table[~is_test].to_parquet(out / "train.parquet")
    table[is_test].to_parquet(out / "test.parquet")
    pd.DataFrame({"name": names}).to_parquet(out / "classes.parquet")


def by_ray_data(source: Path, out: Path) -> None:
    """Prepare by Ray Data's own operations."""
    import pandas as pd
    import ray
    from ray.data.expressions import col

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_csv(str(source)).groupby(["query", "product"]).count().materialize()
    names = sorted(rows.unique("product"))
    ids = ray.put(pd.Series(range(len(names)), index=names))

    def number(batch: Any) -> Any:
        batch["labels"] = ray.get(ids).loc[batch.pop("product")].to_numpy()
        batch["test"] = pd.util.hash_array(batch["query"].to_numpy()) % 10 == 0
        return batch

    rows = rows.map_batches(number, batch_format="pandas").materialize()
    rows.filter(expr=~col("test")).write_parquet(str(out / "train"))
    rows.filter(expr=col("test")).write_parquet(str(out / "test"))
    out.joinpath("classes.txt").write_text("\n".join(names))
    ray.shutdown()


ONE_PROCESS, ON_RAY = "manyworlds, one process", "manyworlds on Ray"
SMALL_PIECES = "manyworlds, pieces of 4 MB"
WAYS: dict[str, Callable[[Path, Path], None]] = {
    ONE_PROCESS: partial(by_manyworlds, address="none"),
    SMALL_PIECES: partial(by_manyworlds, address="none", piece_bytes=4 << 20),
    ON_RAY: partial(by_manyworlds, address="local"),
    "ray.data": by_ray_data,
    "pandas": by_pandas,
}


def measured(way: str, source: Path) -> Found:
    """Return the seconds and the peak memory of one way, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        found = Path(folder, "found.json")
        command = [way, str(source), str(Path(folder, "out")), str(found)]
        subprocess.run(
            [sys.executable, "-m", "benchmarks.prepare.clicks", *command],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        values: Found = json.loads(found.read_text())
        return values


def main() -> None:
    """Measure one way in this process."""
    way, source, out, found = sys.argv[1:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    busy, began = os.getloadavg()[0], time.perf_counter()
    WAYS[way](Path(source), Path(out))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"seconds": round(seconds, 2), "before": before, "peak": peak, "load before": busy}
    Path(found).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
