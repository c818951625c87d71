"""Rows a second beside Ray Data alone and pandas, and peak memory as rows and names grow."""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.kept import Kept
from benchmarks.prepare.clicks import ON_RAY, ONE_PROCESS, SMALL_PIECES, measured, write_clicks
from benchmarks.writing import QUICK, markdown

SPEED_ROWS = 10_000 if QUICK else 1_000_000
SPEED_WAYS = (ONE_PROCESS, ON_RAY, "ray.data", "pandas")
TIMES = 1 if QUICK else 3
MEMORY_ROWS = (1_000, 10_000) if QUICK else (100_000, 1_000_000, 10_000_000)
MEMORY_WAYS = (SMALL_PIECES, ONE_PROCESS, "pandas")


def measure_speed() -> None:
    """Time what is missing."""
    names = {f"{way}, {time}": way for time in range(TIMES) for way in SPEED_WAYS}
    _measure(Kept("prepare", "speed"), SPEED_ROWS, SPEED_ROWS // 10, names)


def measure_memory() -> None:
    """Measure the peak memory of what is missing: each row has another name."""
    for rows in MEMORY_ROWS:
        names = {f"{way}, {rows} rows": way for way in MEMORY_WAYS}
        _measure(Kept("prepare", "memory"), rows, rows, names)


def _measure(kept: Kept, rows: int, products: int, names: dict[str, str]) -> None:
    left = {name: way for name, way in names.items() if name not in kept.units}
    if not left:
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "clicks.csv")
        write_clicks(source, rows, products)
        for name, way in left.items():
            kept.measure(name, partial(measured, way, source))


def speed_table() -> list[str]:
    """Return the lines about rows a second; none before anything is measured."""
    units = Kept("prepare", "speed").units
    rows = []
    for way in SPEED_WAYS:
        found = [units[f"{way}, {time}"] for time in range(TIMES) if f"{way}, {time}" in units]
        if found:
            seconds = statistics.median(each["seconds"] for each in found)
            rows.append((way, f"{SPEED_ROWS / seconds:,.0f}", f"{seconds:.1f}"))
    if not rows:
        return []
    return [
        "## Rows a second",
        "",
        f"A CSV file of {SPEED_ROWS:,} queries with {SPEED_ROWS // 10:,} names of products, the"
        f" median of {TIMES}. Seconds hold the start of Ray where there is one, and what is"
        " written; only `prepare` syncs its files, and could be killed at any time.",
        "",
        *markdown(("by", "rows a second", "seconds"), rows),
        "",
    ]


def memory_table() -> list[str]:
    """Return the lines about memory; none before anything is measured."""
    units = Kept("prepare", "memory").units
    rows = []
    for way in MEMORY_WAYS:
        found = [units.get(f"{way}, {count} rows") for count in MEMORY_ROWS]
        if any(found):
            told = [f"{each['peak'] / 1e6:,.0f}" if each else "–" for each in found]
            rows.append((way, *told))
    if not rows:
        return []
    return [
        "## Peak memory",
        "",
        "Of one process, MB, with a different name in every row. `prepare` holds a piece of a"
        " file at a time, 64 MB by default (`piece_bytes`); smaller files are one smaller piece.",
        "",
        *markdown(("by", *(f"{count:,} rows and names" for count in MEMORY_ROWS)), rows),
        "",
    ]
