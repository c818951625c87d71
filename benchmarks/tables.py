"""Results as a table for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.datasets import SETS

COMBINERS = ("mean", "log", "min", "median")
_NAMES = {"omikuji": "Omikuji 0.5.2", "pecos": "PECOS XR-Linear 1.2.8"}
_COLUMNS = {"P@1": "P@1", "P@5": "P@5", "R@10": "R@10", "R@100": "R@100"}
_RECOMMENDED = {"R@20": "R@20", "nDCG@20": "nDCG@20"}


def write_table(results: Path) -> None:
    """Write accuracy.md from the JSON files in `results`."""
    lines = [
        "# Accuracy",
        "",
        "Made by `make bench-accuracy` (see `benchmarks/accuracy.py`), in per cent of the test"
        " rows; the JSON files beside this page hold every metric and setting.",
    ]
    for name in SETS:
        path = results / "accuracy" / f"{name}.json"
        if path.exists():
            lines += ["", *section(name, json.loads(path.read_text()), results / "peers")]
    (results / "accuracy.md").write_text("\n".join(lines) + "\n")


def section(name: str, found: dict[str, Any], peers: Path) -> list[str]:
    """Return the heading and the table of one set."""
    mach = found["mach"]
    columns = _RECOMMENDED if name == "gowalla" else _COLUMNS
    machine = found["machine"]
    lines = [
        f"## {name}",
        "",
        f"K = {found['classes']:,}, B = {mach['settings']['partition']['buckets']:,},"
        f" {mach['rows']:,} test rows, loss {mach['settings']['model']['loss']},"
        f" {mach['settings']['training']['epochs']} epochs; {mach['seconds_a_world']:.0f} s a"
        f" world on {machine['cores']} cores of {machine['cpu']}.",
        "",
        f"| | R | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for combiner in COMBINERS:
        for worlds, metrics in mach["metrics"][combiner].items():
            lines.append(_row(f"MACH, `{combiner}`", worlds, metrics, list(columns)))
    if "one_vs_all" in found:
        ((_, metrics),) = found["one_vs_all"]["metrics"]["mean"].items()
        lines.append(_row("one-vs-all, same network", "–", metrics, list(columns)))
    for peer, title in _NAMES.items():
        path = peers / f"{name}-{peer}.json"
        if path.exists():
            metrics = json.loads(path.read_text())["metrics"]
            metrics["nDCG@20"] = metrics["NDCG@20"]
            lines.append(_row(title, "–", metrics, list(columns)))
    return lines


def _row(title: str, worlds: str, metrics: dict[str, float], columns: list[str]) -> str:
    cells = [f"{100 * metrics[column]:.1f}" for column in columns]
    return f"| {title} | {worlds} | {' | '.join(cells)} |"
