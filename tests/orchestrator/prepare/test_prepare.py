from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.prepare import PrepareConfig, Summary, merging
from orchestrator.prepare import prepare as prepare_on
from workers.errors import DataError, RunError

Row = tuple[str, tuple[str, ...], float]


def prepare(config: PrepareConfig, **how: Any) -> Summary:
    return prepare_on(config, address="none", **how)


def raw_rows(rows: int, seed: int = 0) -> list[Row]:
    """Return rows of few queries and classes, so that many are repeated."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        query = f"Query  {rng.integers(rows // 3)}"
        query = query.upper() if rng.random() < 0.5 else query
        names = rng.choice([f"class {i}" for i in range(40)], rng.integers(1, 4), replace=False)
        found.append((query, tuple(names.tolist()), float(rng.integers(1, 4))))
    return found


def write(folder: Path, rows: list[Row], files: int = 2) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(files):
        lines = (json.dumps({"q": q, "c": c, "w": w}) for q, c, w in rows[number::files])
        (folder / f"{number}.jsonl").write_text("\n".join(lines))


def job(folder: Path, out: str = "out", **changes: Any) -> PrepareConfig:
    settings: dict[str, Any] = {
        "text": ("q",),
        "labels": "c",
        "weight": "w",
        "piece_bytes": 2000,
        "test": 0.25,
    }
    where = {"source": str(folder / "raw"), "out": str(folder / out)}
    return PrepareConfig(**(settings | where | changes))


def table_of(folder: Path, split: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / split).iterdir())])


def found_in(out: Path, splits: tuple[str, ...] = ("train", "validation", "test")) -> list[Row]:
    """Return all rows with their classes by name, queries as they are seen."""
    classes = pq.read_table(out / "classes.parquet")
    assert classes["id"].to_pylist() == list(range(len(classes)))
    names = classes["name"].to_pylist()
    found = []
    for split in splits:
        for row in table_of(out, split).to_pylist():
            labels = row["labels"]
            assert labels == sorted(labels)
            mine = tuple(sorted(names[label] for label in labels))
            found.append((seen(row["q"]), mine, row["weight"]))
    return found


def seen(query: str) -> str:
    return " ".join(query.lower().split())


def merged(rows: list[Row]) -> Counter[tuple[str, tuple[str, ...]]]:
    total: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for query, names, weight in rows:
        total[seen(query), tuple(sorted(names))] += weight  # type: ignore[assignment]
    return total


def test_equal_rows_become_one_with_all_their_weight(tmp_path: Path) -> None:
    rows = raw_rows(200)
    rows += rows[::2]
    write(tmp_path / "raw", rows)
    summary = prepare(job(tmp_path))
    found = found_in(tmp_path / "out")
    expected = merged(rows)
    assert len(found) == len(expected) < len(rows)
    assert merged(found) == expected
    assert sum(summary.rows.values()) == len(found)
    assert (summary.rows_read, summary.set_aside, summary.without_class) == (300, 0, 0)
    counts = Counter(name for _, names, _ in rows for name in names)
    classes = pq.read_table(tmp_path / "out" / "classes.parquet").to_pylist()
    assert {row["name"]: row["count"] for row in classes} == counts
    assert summary.classes == len(counts) == sum(summary.histogram.values())


def test_a_query_that_is_repeated_everywhere_is_never_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Row] = [("all the same", ("x",), 1.5)] * 3000 + raw_rows(90)
    write(tmp_path / "raw", rows)
    prepare(job(tmp_path, "whole"))
    held: list[int] = []
    whole = merging.merged

    def counted(rows: pa.Table) -> pa.Table:
        held.append(rows.num_rows)
        return whole(rows)

    monkeypatch.setattr(merging, "merged", counted)
    monkeypatch.setattr(merging, "_FEW_ROWS", 100)
    prepare(job(tmp_path))
    assert max(held) < 300
    assert merged(found_in(tmp_path / "out")) == merged(rows)
    for path in (tmp_path / "whole" / "train").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "train" / path.name).read_bytes()


def test_rows_are_kept_as_they_are_if_asked(tmp_path: Path) -> None:
    rows = raw_rows(300)
    write(tmp_path / "raw", rows)
    prepare(job(tmp_path, repeats="keep"))
    expected = Counter((seen(q), tuple(sorted(c)), w) for q, c, w in rows)
    assert Counter(found_in(tmp_path / "out")) == expected


def test_no_query_stands_on_two_sides(tmp_path: Path) -> None:
    write(tmp_path / "raw", raw_rows(3000))
    prepare(job(tmp_path, validation=0.2))
    sides = [
        {query for query, _, _ in found_in(tmp_path / "out", (split,))}
        for split in ("train", "validation", "test")
    ]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    queries = sum(map(len, sides))
    # Of some 950 queries, with a standard deviation of 13.
    assert abs(len(sides[2]) - 0.25 * queries) < 70
    assert abs(len(sides[1]) - 0.2 * queries) < 70


def test_a_query_stays_on_its_side_when_others_come(tmp_path: Path) -> None:
    rows = raw_rows(600)
    write(tmp_path / "raw", rows[:300])
    prepare(job(tmp_path, "few"))
    write(tmp_path / "raw", rows)
    prepare(job(tmp_path, "more", piece_bytes=700))
    few, more = (
        {query for query, _, _ in found_in(tmp_path / out, ("test",))} for out in ("few", "more")
    )
    assert few <= more


def test_rare_classes_are_left_out_with_rows_that_have_no_others(tmp_path: Path) -> None:
    rows: list[Row] = [("a", ("x", "y"), 1.0), ("b", ("x",), 1.0), ("c", ("z", "y"), 1.0)]
    rows += [("d", ("rare",), 1.0), ("e", ("rare too", "x"), 1.0)]
    write(tmp_path / "raw", rows)
    summary = prepare(job(tmp_path, min_count=2))
    assert merged(found_in(tmp_path / "out")) == {
        ("a", ("x", "y")): 1,
        ("b", ("x",)): 1,
        ("c", ("y",)): 1,
        ("e", ("x",)): 1,
    }
    assert (summary.classes, summary.without_class) == (2, 1)


def test_classes_of_an_earlier_job_keep_their_ids(tmp_path: Path) -> None:
    first: list[Row] = [(f"q{i}", (f"c{i % 9}",), 1.0) for i in range(50)]
    write(tmp_path / "raw", first)
    classes = str(tmp_path / "first" / "classes.parquet")
    prepare(job(tmp_path, "first"))
    names = pq.read_table(classes)["name"].to_pylist()
    second: list[Row] = [("a", ("c3", "new"), 1.0), ("b", ("new",), 1.0), ("c", ("c8",), 1.0)]
    write(tmp_path / "raw", second, files=3)
    summary = prepare(job(tmp_path, "second", classes=classes, test=0.0, piece_bytes=20))
    found = table_of(tmp_path / "second", "train").to_pylist()
    assert {row["q"]: [names[i] for i in row["labels"]] for row in found} == {
        "a": ["c3"],
        "c": ["c8"],
    }
    assert (summary.classes, summary.without_class) == (9, 1)
    assert not (tmp_path / "second" / "classes.parquet").exists()


def test_what_is_set_aside_is_in_a_file(tmp_path: Path) -> None:
    write(tmp_path / "raw", raw_rows(50))
    with (tmp_path / "raw" / "0.jsonl").open("a") as file:
        file.write('\n{"q": "", "c": "x", "w": 1}\nnonsense')
    summary = prepare(job(tmp_path))
    aside = pq.read_table(tmp_path / "out" / "aside.parquet").to_pylist()
    assert summary.set_aside == len(aside) == 2
    assert {row["reason"] for row in aside} == {"no text", "no JSON object with these fields"}
    assert {row["file"] for row in aside} == {str(tmp_path / "raw" / "0.jsonl")}
    assert summary.rows_read == 52


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "prepare.json"
    }


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 9, 14, 19, 24])
def test_a_job_that_was_cut_short_ends_with_the_same_bytes(tmp_path: Path, after: int) -> None:
    write(tmp_path / "raw", raw_rows(200))
    expected = prepare(job(tmp_path, "whole"))
    told = 0

    def cut(step: str, done: int, tasks: int) -> None:
        nonlocal told
        told += 1
        if told == after:
            raise Killed

    with pytest.raises(Killed):
        prepare(job(tmp_path), progress=cut)
    assert not (tmp_path / "out" / "summary.json").exists()
    assert prepare(job(tmp_path)) == expected
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert not (tmp_path / "out" / "work").exists()


def test_the_rows_do_not_depend_on_how_files_are_cut(tmp_path: Path) -> None:
    rows = raw_rows(200)
    write(tmp_path / "raw", rows)
    summaries: list[Summary] = []
    for out, size in (("one", 1 << 20), ("many", 300)):
        summaries.append(prepare(job(tmp_path, out, piece_bytes=size)))
    assert merged(found_in(tmp_path / "one")) == merged(found_in(tmp_path / "many"))
    assert summaries[0] == summaries[1]
    assert len(list((tmp_path / "one" / "train").iterdir())) == 1
    assert len(list((tmp_path / "many" / "train").iterdir())) > 10


def test_another_job_in_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "raw", raw_rows(50))
    config = job(tmp_path)
    prepare(config)
    with pytest.raises(RunError, match="to have the same config"):
        prepare(replace(config, min_count=3))
    write(tmp_path / "raw", raw_rows(60))
    with pytest.raises(RunError, match="to have the same files"):
        prepare(config)


def test_less_than_two_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "raw", [("a", ("x",), 1.0)] * 9)
    with pytest.raises(DataError, match="expected at least 2 classes, found 1"):
        prepare(job(tmp_path))
