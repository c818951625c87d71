"""The table that a whole run of chaos leaves behind."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.writing import machine

_TEMPORARY = re.compile(r"/\S*/pytest-\d+/")
"""The folder of a session's temporary files, which tells nobody anything."""
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@dataclass(kw_only=True)
class Row:
    """One case."""

    case: str
    """The test's name."""
    fault: str
    """What was done to the run."""
    wanted: str
    outcome: str = "not run"
    """passed, failed or skipped, with why."""
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    """What the case measured, by name."""


def write(rows: list[Row], folder: Path = RESULTS) -> None:
    """Write the rows as `chaos.json`, and as a table in `chaos.md`."""
    for row in rows:
        row.found = {name: _without_folder(value) for name, value in row.found.items()}
    results = {"machine": machine(), "cases": [asdict(row) for row in rows]}
    (folder / "chaos.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "chaos.md").write_text(table(results))


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    cases, on = results["cases"], results["machine"]
    minutes = sum(case["seconds"] for case in cases) / 60
    lines = [
        "# Faults",
        "",
        f"Made by `make chaos` in {minutes:.0f} minutes on {on['cores']} cores ({on['cpu']}): runs"
        " of three worlds on a Ray cluster of three machines with a GPU each, all of it faked on"
        " one. `same bits`: every world's weights have the sha256 of an undisturbed run.",
        "",
        "| fault | wanted | found | | seconds |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        found = "; ".join(f"{name} {_shown(value)}" for name, value in case["found"].items())
        cells = [case["fault"], case["wanted"], found or "–", case["outcome"]]
        escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        lines.append(f"| {' | '.join(escaped)} | {case['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def _without_folder(value: Any) -> Any:
    return _TEMPORARY.sub("", value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
