"""`manyworlds plan` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.config import load
from tests.orchestrator.builders import run_config, searches, trained, write
from tests.orchestrator.command import manyworlds

PAPER = ("plan", "amazon-50m", "training.epochs=10", "--rows", "70000000", "--features", "30")


def test_the_papers_job_is_planned_from_numbers_alone() -> None:
    ended = manyworlds(*PAPER)
    assert ended.code == 0, ended.err
    assert "B = 20,000 (as asked), 2,473.0 classes in each" in ended.out
    assert "R = 32 (as asked); the bounds take 5" in ended.out
    assert "6,400,704,000 parameters" in ended.out
    assert "aws-p3.16xlarge" in ended.out
    assert "does not fit" in ended.out
    assert "Nothing was measured here" in ended.out
    (command,) = ended.next_commands
    assert command == [
        *("train", "amazon-50m", "run=runs/first", "data.train=ROWS", "training.epochs=10")
    ]


def test_a_plan_is_there_for_programs_too() -> None:
    found = json.loads(manyworlds(*PAPER, "--json").out)
    assert found["size"]["ensemble_bytes"] == 4 * 6_400_704_000
    assert found["chosen"]["least_for_confusion"] == 5
    assert {item["source"] for item in found["estimates"]} == {"roofline"}
    assert found["config"]["partition"]["buckets"] == 20_000


def test_the_data_are_looked_at_and_worlds_are_trained_for_a_moment(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.parquet", searches(300))
    words = [f"data.train={data}", "data.classes=64", "data.text=[query]"]
    words += ["cluster.address=none", "model.hidden=[8]", "features.dimension=256"]
    ended = manyworlds("plan", *words, "--calibrate", "0.1")
    assert ended.code == 0, ended.err
    assert "B = 16 (chosen), 4.0 classes in each" in ended.out
    assert "300 of about" in ended.out
    assert "pace here" in ended.out
    assert "this machine" in ended.out
    (command,) = ended.next_commands
    assert command[:2] == ["train", "run=runs/first"]
    assert "partition.buckets=16" in command
    chosen = load(overrides=command[1:])
    assert chosen.partition.buckets == 16
    assert f"worlds={chosen.worlds}" in command
    assert "pace here" not in manyworlds("plan", *words, "--calibrate", "0").out
    late = manyworlds("plan", *words, "--calibrate", "0.1", "--target-hours", "0.00001")
    assert "this machine takes longer" in late.out
    soon = manyworlds("plan", *words, "--calibrate", "0.1", "--target-hours", "9")
    assert "this machine takes longer" not in soon.out


def test_the_machines_that_end_it_in_time_are_counted() -> None:
    ended = manyworlds(*PAPER, "--target-hours", "2")
    assert "to end within 2 h" in ended.out
    assert "one world alone takes longer on aws-g4dn.xlarge" in ended.out
    found = json.loads(manyworlds(*PAPER, "--target-hours", "2", "--json").out)["estimates"]
    assert found
    assert all(item["hours"] <= 2 for item in found)
    assert max(item["machines"] for item in found) > 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan", "a", "b"], "expected one preset or run, found a, b"),
        (["plan", "seed=1", "--rows", "9"], "data.classes: expected the number of classes"),
        (["plan", *PAPER[1:], "--machines", "nowhere.yaml"], "nowhere.yaml"),
        (["plan", *PAPER[1:], "data.clases=3"], "data.classes"),
        (["plan", "data.classes=30000"], "expected data.train=ROWS, or --rows N where there are"),
        (["plan", "a", "worlds=9"], "a: expected a run alone, found worlds=9 beside it"),
        (["plan", "a", "--rows", "9"], "a: expected a run alone, found --rows beside it"),
        (["plan", "a", "--target-hours", "9"], "found --target-hours beside it"),
    ],
)
def test_what_cannot_be_planned_is_told(words: list[str], told: str) -> None:
    ended = manyworlds(*words)
    assert ended.code == 2
    assert told in ended.err


def test_the_command_that_trains_says_where_the_input_goes() -> None:
    (command,) = manyworlds("plan", "data.classes=30000", "--rows", "99999").next_commands
    assert "data.text=[COLUMN]" in command


def test_a_run_that_has_grown_is_measured_anew_first(tmp_path: Path) -> None:
    config = run_config(tmp_path, "worlds=4")
    trained(config)
    held_out = write(tmp_path / "held-out.parquet", searches(80, seed=5))
    assert manyworlds("evaluate", config.run, f"data={held_out}", "--k", "1,5").code == 0
    assert manyworlds("grow", config.run, "worlds=6").code == 0
    ended = manyworlds("plan", config.run)
    assert "measured with 4 of its 6 worlds" in ended.out
    assert ended.next_commands == [["evaluate", config.run, f"data={held_out}"]]


def test_a_run_says_what_more_worlds_would_bring(tmp_path: Path) -> None:
    config = run_config(tmp_path, "worlds=4")
    trained(config)
    held_out = write(tmp_path / "held-out.parquet", searches(80, seed=5))
    first = manyworlds("plan", config.run)
    assert "nobody measured its ensemble yet" in first.out
    assert first.next_commands == [["evaluate", config.run, "data=HELD_OUT"]]
    assert manyworlds("evaluate", config.run, f"data={held_out}", "--k", "1,5").code == 0
    ended = manyworlds("plan", config.run)
    assert ended.code == 0, ended.err
    assert "80 rows, in %" in ended.out
    assert "R=8" in ended.out
    assert "8 worlds would bring" in ended.out
    assert ended.next_commands == [["grow", config.run, "worlds=8"]]
    found = json.loads(manyworlds("plan", config.run, "--json").out)
    assert {gain["metric"] for gain in found["gains"]} == {"P@1", "R@5"}
