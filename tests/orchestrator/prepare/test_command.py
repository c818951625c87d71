from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.orchestrator.command import manyworlds

SMALL = [
    "worlds=2",
    "partition.buckets=4",
    "features.dimension=300",
    "model.hidden=[8]",
    "training.batch_size=32",
    "cluster.address=none",
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["query,product"]
    lines += [f"word{p} word{rng.integers(90)},product {p}" for p in rng.integers(0, 20, 400)]
    path = tmp_path / "logs.csv"
    path.write_text("\n".join([*lines, "too,many,columns", ",product 3"]))
    return path


def test_what_is_prepared_can_be_trained_on_by_the_command_that_is_told(raw: Path) -> None:
    out = raw.parent / "data"
    words = ["prepare", f"source={raw}", f"out={out}", "text=[query]", "labels=product"]
    words.append("cluster=none")
    ended = manyworlds(*words)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0] == "402 rows read, 2 of them set aside"
    assert sorted(lines[1:3]) == ["    1: 2 columns expected, found 3", "    1: no text"]
    assert "20 classes, by how many rows have them:" in lines
    (command,) = ended.next_commands
    run = f"run={raw.parent / 'run'}"
    trained = manyworlds(*(run if word.startswith("run=") else word for word in command), *SMALL)
    assert trained.code == 0, trained.err
    again = manyworlds(*words)
    assert again.out == ended.out


def test_the_command_that_is_told_works_for_few_classes(raw: Path) -> None:
    out = raw.parent / "data"
    words = [f"source={raw}", f"out={out}", "text=[query]", "labels=product"]
    (command,) = manyworlds("prepare", *words, "cluster=none").next_commands
    assert manyworlds(*command, "cluster.address=none", "--dry-run").code == 0


@pytest.mark.parametrize("separator", ["|", ",", ";", " ", "', '", '"|"', "~", ":", "#", "::"])
def test_any_sign_may_stand_between_class_names(tmp_path: Path, separator: str) -> None:
    sign = separator.strip("'\"")
    rows = [{"q": "a", "c": f"x{sign}y"}, {"q": "b", "c": f"z{sign}y"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ended = manyworlds(
        *("prepare", f"source={tmp_path}/a.jsonl", f"out={tmp_path}/out", "text=[q]", "labels=c"),
        *(f"label_separator={separator}", "cluster=none"),
    )
    assert "3 classes, by how many rows have them:" in ended.out, ended.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "expected source=PATH out=PATH"),
        (["sorce=x"], "sorce: unknown key; did you mean source?"),
        (["source=x", "text=[q]"], "out: expected the folder to write, found nothing"),
        (["source=nowhere.csv", "out=x", "text=[q]"], "found no file"),
    ],
)
def test_what_is_wrong_with_a_command_is_told(words: list[str], problem: str) -> None:
    ended = manyworlds("prepare", *words)
    assert ended.code == 2
    assert problem in ended.err
