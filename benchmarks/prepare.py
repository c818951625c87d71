"""Preparing shards: rows a second beside Ray Data alone and pandas, and memory as data grows.

    python -m benchmarks.prepare

Generated clicks, with names of products, are written as CSV. `manyworlds` is `prepare` in this
process and on a local Ray; `ray.data` and `pandas` do what a person would write by hand with them:
read, number the classes in memory, merge equal rows, split by query, write Parquet.
QUICK=1 only shows that it runs.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import QUICK, ROOT, markdown, write_results
from orchestrator.prepare import PrepareConfig, prepare

ROWS = (10_000, 30_000) if QUICK else (100_000, 1_000_000, 10_000_000)
SPEED_ROWS = 10_000 if QUICK else 1_000_000
WRITTEN = 200_000
"""Rows that are made at a time."""


def write_clicks(path: Path, rows: int, products: int) -> None:
    """Write a CSV file of queries and names of products."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("query,product\n")
        for start in range(0, rows, WRITTEN):
            count = min(WRITTEN, rows - start)
            items = rng.integers(0, products, count)
            words = rng.integers(0, 50_000, (count, 3))
            lines = (
                f"item {item} w{a} w{b} w{c},product-{item:010d}\n"
                for item, (a, b, c) in zip(items.tolist(), words.tolist(), strict=True)
            )
            file.writelines(lines)


def by_manyworlds(source: Path, out: Path, address: str) -> None:
    """Prepare by `prepare`."""
    config = PrepareConfig(
        source=str(source), out=str(out), text=("query",), labels="product", test=0.1
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

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_csv(str(source)).groupby(["query", "product"]).count()
    names = sorted(rows.unique("product"))
    ids = ray.put(pd.Series(range(len(names)), index=names))

    def number(batch: Any) -> Any:
        batch["labels"] = ray.get(ids).loc[batch.pop("product")].to_numpy()
        batch["test"] = pd.util.hash_array(batch["query"].to_numpy()) % 10 == 0
        return batch

    rows = rows.map_batches(number, batch_format="pandas").materialize()
    rows.filter(expr="test == False").write_parquet(str(out / "train"))
    rows.filter(expr="test == True").write_parquet(str(out / "test"))
    ray.shutdown()


WAYS = {
    "manyworlds, one process": lambda source, out: by_manyworlds(source, out, "none"),
    "manyworlds on Ray": lambda source, out: by_manyworlds(source, out, "local"),
    "ray.data": by_ray_data,
    "pandas": by_pandas,
}


def measured(way: str, source: Path) -> dict[str, float]:
    """Return the seconds and the peak memory of one way, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "found.json")
        command = [sys.executable, "-m", "benchmarks.prepare", way, str(source), folder, str(found)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        values: dict[str, float] = json.loads(found.read_text())
        return values


def one_way(way: str, source: str, folder: str, found: str) -> None:
    """Measure one way in this process."""
    began = time.perf_counter()
    WAYS[way](Path(source), Path(folder, "out"))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(found).write_text(json.dumps({"seconds": seconds, "peak": peak}))


def main() -> None:
    """Measure all ways, and memory by rows."""
    results: dict[str, Any] = {"speed": {}, "memory": {}}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "clicks.csv")
        write_clicks(source, SPEED_ROWS, SPEED_ROWS // 10)
        for way in WAYS:
            results["speed"][way] = measured(way, source)
            print(way, results["speed"][way], flush=True)
        for rows in ROWS:
            # As many different names as rows, near enough.
            write_clicks(source, rows, rows)
            for way in ("manyworlds, one process", "pandas"):
                found = measured(way, source)
                results["memory"].setdefault(way, {})[str(rows)] = found
                print(way, rows, found, flush=True)
    write_results("prepare", results, table(results))


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    speed = [
        (way, f"{SPEED_ROWS / found['seconds']:,.0f}") for way, found in results["speed"].items()
    ]
    memory = [
        (way, *(f"{found[str(rows)]['peak'] / 1e6:,.0f}" for rows in ROWS))
        for way, found in results["memory"].items()
    ]
    lines = [
        "# Preparing shards",
        "",
        f"Made by `python -m benchmarks.prepare`: a CSV file of {SPEED_ROWS:,} queries with"
        f" {SPEED_ROWS // 10:,} names of products.",
        "",
        *markdown(("by", "rows a second"), speed),
        "",
        "Peak memory of one process, MB, with about as many different names as rows:",
        "",
        *markdown(("by", *(f"{rows:,} rows" for rows in ROWS)), memory),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one_way(*sys.argv[1:])
    else:
        main()
