from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import checkpointing, featurizing, search
from benchmarks.tables import COMBINERS, summary, write_table

ROOT = Path(__file__).parent.parent.parent

METRICS = {"P@1": 0.5, "P@5": 0.1, "R@10": 0.625, "R@20": 0.7, "R@100": 0.75, "nDCG@20": 0.25}


def result(name: str) -> dict[str, Any]:
    settings = {
        "partition": {"buckets": 25},
        "model": {"loss": "softmax"},
        "training": {"epochs": 3},
    }
    mach = {
        "settings": settings,
        "rows": 10,
        "busy": True,
        "seconds_a_world": 1.5,
        "metrics": {combiner: {"1": METRICS, "8": METRICS} for combiner in COMBINERS},
    }
    return {
        "set": name,
        "classes": 100,
        "machine": {"cores": 2, "cpu": "a CPU"},
        "mach": mach,
        "one_vs_all": {"metrics": {"mean": {"1": METRICS}}},
    }


def written(folder: Path, name: str) -> list[str]:
    (folder / "accuracy").mkdir()
    (folder / "peers").mkdir()
    (folder / "accuracy" / f"{name}.json").write_text(json.dumps(result(name)))
    peer = {"metrics": {**METRICS, "NDCG@20": 0.125, "R@20": 0.5}}
    (folder / "peers" / f"{name}-omikuji.json").write_text(json.dumps(peer))
    write_table(folder)
    return (folder / "accuracy.md").read_text().splitlines()


def test_the_table_has_a_line_for_each_combiner_number_and_rival(tmp_path: Path) -> None:
    lines = written(tmp_path, "tldr")
    assert "## tldr" in lines
    assert any("; 2 s a world on 2 cores of a CPU, busy with other work." in line for line in lines)
    assert "| MACH, `log` | 8 | 50.0 | 10.0 | 62.5 | 75.0 |" in lines
    assert sum(line.startswith("| MACH") for line in lines) == 2 * len(COMBINERS)
    assert "| one-vs-all softmax, same network | – | 50.0 | 10.0 | 62.5 | 75.0 |" in lines
    assert "| Omikuji 0.5.2 | – | 50.0 | 10.0 | 62.5 | 75.0 |" in lines
    assert not any("PECOS" in line for line in lines)


def test_the_summary_marks_the_best_of_each_column(tmp_path: Path) -> None:
    lines = written(tmp_path, "tldr")
    assert "| tldr | 100 | MACH, R = 8 | **50.0** | **62.5** | **75.0** |" in lines
    worse = {**METRICS, "P@1": 0.4, "NDCG@20": 0.1}
    (tmp_path / "peers" / "tldr-pecos.json").write_text(json.dumps({"metrics": worse}))
    assert "|  |  | PECOS XR-Linear 1.2.8 | 40.0 | **62.5** | **75.0** |" in summary(tmp_path)


def test_the_readme_has_the_table_that_was_measured() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\n".join(summary(ROOT / "benchmarks" / "results")) in readme


def test_recommendations_have_their_own_metrics(tmp_path: Path) -> None:
    lines = written(tmp_path, "gowalla")
    assert "| | R | R@20 | nDCG@20 |" in lines
    assert "| Omikuji 0.5.2 | – | 50.0 | 12.5 |" in lines
    assert "|  |  | Omikuji 0.5.2 | 50.0 | 12.5 |" in lines


def test_the_search_has_a_column_a_set_and_leaves_gaps_open() -> None:
    table = search.table({"tldr": {"rate 0.01": METRICS}, "omw": {}})
    assert "| what is set | tldr | omw |" in table
    assert "| rate 0.01 | 50.0 / 62.5 / 75.0 |  |" in table


def test_featurizing_tells_the_ratio() -> None:
    found = {
        "characters_a_row": 20.5,
        "rows_a_second": {"manyworlds": 2_000_000, "scikit_learn": 100_000},
        "ratio": 20.0,
    }
    assert "| tldr | 20.5 | 2,000,000 | 100,000 | 20.0 |" in featurizing.table({"tldr": found})


def test_checkpoints_are_summed_up_beside_a_training_without_them() -> None:
    plain = checkpointing.Trained(seconds=[0.1] * 10)
    first = checkpointing.WARM_UP
    waiting = checkpointing.Trained(
        seconds=[0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.8, 0.1, 0.1, 0.1],
        # The first of them fell to the steps that are not counted.
        taken=[first - 1, first + 3, first + 7],
        behind=[0, 1, 2, 3, 4],
    )
    found = checkpointing.summed_up(waiting, plain, 4)
    assert found["stall_ms"] == {"median": 600.0, "largest": 700.0}
    assert found["slower_percent"] == 120.0
    assert found["steps_done_twice"] == {"mean": 2.0, "largest": 4}
    assert (found["seconds_done_twice"], found["interval_seconds"]) == (0.2, 0.4)
    results = {
        "steps": 10,
        "step_ms": 100.0,
        "checkpoint_bytes": 5_000_000,
        "intervals": {"4": {"waiting": found}},
    }
    assert checkpointing.table(results).splitlines()[-1] == (
        "| 4 steps, 0.4 s | waiting | 600 ms | 700 ms | 120.0 % | 2.0 steps, 0.2 s | 4 |"
    )
