from __future__ import annotations

import json
from pathlib import Path

from chaos.report import Row, write


def test_the_table_has_a_line_for_each_case(tmp_path: Path) -> None:
    passed = Row(
        case="test_a",
        fault="a | b",
        wanted="resumed",
        outcome="passed",
        seconds=12.34,
        found={
            "kills": 6,
            "seconds": 1.25,
            "same bits": True,
            "told": "/tmp/of-somebody/pytest-1/case0/a.parquet: gone",
        },
    )
    write([passed, Row(case="test_b", fault="c", wanted="d", outcome="failed")], tmp_path)
    lines = (tmp_path / "chaos.md").read_text().splitlines()
    assert lines[-2:] == [
        "| a \\| b | resumed"
        " | kills 6; seconds 1.2; same bits yes; told case0/a.parquet: gone | passed | 12 |",
        "| c | d | – | failed | 0 |",
    ]
    kept = json.loads((tmp_path / "chaos.json").read_text())
    assert [case["outcome"] for case in kept["cases"]] == ["passed", "failed"]
    assert kept["machine"]["cores"] > 0
