"""Results as tables for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.datasets import SETS

COMBINERS = ("mean", "log", "min", "median")
SUMMED_UP = "8"
"""The number of worlds that the summary tells, with the combiner `log`."""
_PEERS = {"omikuji": "Omikuji 0.5.2", "pecos": "PECOS XR-Linear 1.2.8"}
_COLUMNS = ("P@1", "P@5", "R@10", "R@100")
_SUMMARY_COLUMNS = ("P@1", "R@10", "R@100")
_RECOMMENDED = ("R@20", "nDCG@20")
"""The metrics that tables of gowalla have elsewhere; places already visited are left out."""


def write_table(results: Path) -> None:
    """Write accuracy.md from the JSON files in `results`."""
    lines = [
        "# Accuracy",
        "",
        "Made by `make bench-accuracy` (see `benchmarks/accuracy.py`), in per cent of the test"
        " rows; the JSON files beside this page hold every metric and setting.",
        "",
        *summary(results),
    ]
    for name, found in _found(results).items():
        lines += ["", *section(name, found, results / "peers")]
    (results / "accuracy.md").write_text("\n".join(lines) + "\n")


def summary(results: Path) -> list[str]:
    """Return the table of all sets, which the README has too: the best of each column in bold."""
    lines = [f"| set | K | | {' | '.join(_SUMMARY_COLUMNS)} |", f"|---|---|---|{'---|' * 3}"]
    aside = ["", f"| set | K | | {' | '.join(_RECOMMENDED)} |", f"|---|---|---|{'---|' * 2}"]
    for name, found in _found(results).items():
        rows = [(f"MACH, R = {SUMMED_UP}", found["mach"]["metrics"]["log"][SUMMED_UP])]
        rows += _rivals(name, found, results / "peers")
        columns = _columns(name, _SUMMARY_COLUMNS)
        best = {column: max(metrics[column] for _, metrics in rows) for column in columns}
        head = f"{name} | {found['classes']:,}"
        for title, metrics in rows:
            cells = [_bold(metrics[column], best[column]) for column in columns]
            (aside if name == "gowalla" else lines).append(
                f"| {head} | {title} | {' | '.join(cells)} |"
            )
            head = " | "
    return lines + (aside if len(aside) > 3 else [])


def section(name: str, found: Mapping[str, Any], peers: Path) -> list[str]:
    """Return the heading and the table of one set."""
    mach = found["mach"]
    columns = _columns(name, _COLUMNS)
    machine = found["machine"]
    lines = [
        f"## {name}",
        "",
        f"K = {found['classes']:,}, B = {mach['settings']['partition']['buckets']:,},"
        f" {mach['rows']:,} test rows, loss {mach['settings']['model']['loss']},"
        f" {mach['settings']['training']['epochs']} epochs; {mach['seconds_a_world']:.0f} s a"
        f" world on {machine['cores']} cores of {machine['cpu']}"
        f"{', busy with other work' if mach.get('busy') else ''}.",
        "",
        f"| | R | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for combiner in COMBINERS:
        for worlds, metrics in mach["metrics"][combiner].items():
            lines.append(_row(f"MACH, `{combiner}`", worlds, metrics, columns))
    return lines + [
        _row(title, "–", metrics, columns) for title, metrics in _rivals(name, found, peers)
    ]


def _found(results: Path) -> dict[str, Any]:
    paths = {name: results / "accuracy" / f"{name}.json" for name in SETS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def _rivals(
    name: str, found: Mapping[str, Any], peers: Path
) -> list[tuple[str, Mapping[str, float]]]:
    rivals = []
    if "one_vs_all" in found:
        (metrics,) = found["one_vs_all"]["metrics"]["mean"].values()
        rivals.append(("one-vs-all softmax, same network", metrics))
    for peer, title in _PEERS.items():
        path = peers / f"{name}-{peer}.json"
        if path.exists():
            metrics = json.loads(path.read_text())["metrics"]
            rivals.append((title, {**metrics, "nDCG@20": metrics["NDCG@20"]}))
    return rivals


def _columns(name: str, usual: Sequence[str]) -> Sequence[str]:
    return _RECOMMENDED if name == "gowalla" else usual


def _bold(value: float, best: float) -> str:
    # As rounded: what looks equal is equally best.
    text = f"{100 * value:.1f}"
    return f"**{text}**" if text == f"{100 * best:.1f}" else text


def _row(title: str, worlds: str, metrics: Mapping[str, float], columns: Sequence[str]) -> str:
    cells = [f"{100 * metrics[column]:.1f}" for column in columns]
    return f"| {title} | {worlds} | {' | '.join(cells)} |"
