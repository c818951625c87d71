"""Files as they come: wrong types, wrong signs, no rows, marks that belong to no row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.prepare import PrepareConfig, Source, prepare
from orchestrator.prepare.rows import NAMES
from workers.errors import ConfigError, DataError, RunError


def source_of(path: Path, **changes: Any) -> Source:
    settings: dict[str, Any] = {"text": ("q",), "labels": "c"} | changes
    return Source(PrepareConfig(source=str(path), **settings))


def read(source: Source) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return the rows of all pieces, and what is set aside with the reason."""
    rows, aside = [], []
    for piece in source.pieces():
        found = source.read(piece)
        rows += found.rows.to_pylist()
        aside += [(row["reason"], row["row"]) for row in found.aside.to_pylist()]
    return rows, aside


def test_a_csv_row_with_too_many_columns_may_be_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("q,c\naé,1\n".encode() + "b\xe9,2,3\nc\xe9,2\n".encode("latin-1") + b"d,4\n")
    rows, aside = read(source_of(path))
    assert [row["q"] for row in rows] == ["aé", "d"]
    assert [reason for reason, _ in aside] == ["2 columns expected, found 3", "not in utf-8"]
    assert aside[0][1] == "b\ufffd,2,3"
    rows, aside = read(source_of(path, encoding="latin-1"))
    assert [row["q"] for row in rows] == ["aÃ©", "cé", "d"]
    assert aside == [("2 columns expected, found 3", "bé,2,3")]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_the_mark_at_the_beginning_of_a_file_is_no_part_of_a_row(
    tmp_path: Path, encoding: str
) -> None:
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.csv").write_bytes(mark + b'"x1",a\nx1,b\n')
    source = source_of(tmp_path / "a.csv", columns=("c", "q"), encoding=encoding)
    assert [row[NAMES] for row in read(source)[0]] == [["x1"], ["x1"]]
    # The last line is no object: each is looked at by itself.
    (tmp_path / "a.jsonl").write_bytes(mark + b'{"q": "a", "c": "x"}\n[1]\n')
    rows, aside = read(source_of(tmp_path / "a.jsonl", encoding=encoding))
    assert [row["q"] for row in rows] == ["a"]
    assert len(aside) == 1
    (tmp_path / "a.txt").write_bytes(mark + b"1 10 10\n1 2:0.5\n")
    rows, aside = read(Source(PrepareConfig(source=str(tmp_path / "a.txt"), format="xmc")))
    assert ([row[NAMES] for row in rows], aside) == ([["1"]], [])


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_quote_inside_a_text_is_a_sign_like_others(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.csv"
    texts = ['27" monitor', "two\nlines", 'a ""b""', "c", 'both "\nof, them']
    lines = ['27" monitor,1', '"two\nlines",2', 'a ""b"",3', '"c",4', '"both ""\nof, them",5']
    path.write_text("\n".join(["q,c", *lines * 3]))
    source = source_of(path, piece_bytes=size)
    rows, aside = read(source)
    assert [row["q"] for row in rows] == texts * 3
    assert aside == []
    # Also where the number of quotes is odd from the first line on.
    path.write_text("\n".join(["q,c", '27" monitor,1', *(f"text {i},{i}" for i in range(50))]))
    source = source_of(path, piece_bytes=size)
    assert len(read(source)[0]) == 51
    assert len(source.pieces()) == (1 if size > 1000 else 50)


def test_a_quote_that_does_not_end_takes_no_other_rows_along(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('q,c\na,1\n"b,2\n' + "".join(f"text {i},3\n" for i in range(20)))
    rows, aside = read(source_of(path))
    assert [row["q"] for row in rows] == ["a", *(f"text {i}" for i in range(20))]
    assert aside == [("a quote that does not end", '"b,2')]
    # Cut anywhere, the same.
    assert read(source_of(path, piece_bytes=30)) == (rows, aside)


def test_bytes_that_are_no_text_are_set_aside_whatever_holds_them(tmp_path: Path) -> None:
    lines = [b'{"q": "a\xe9", "c": ["x"]}', b'{"q": "b", "c": ["y"]}', b'{"q": "c", "c": ["\xe9"]}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows, aside = read(source_of(tmp_path / "a.jsonl"))
    assert ([row["q"] for row in rows], len(aside)) == (["b"], 2)
    for kind in (pa.binary(), pa.large_binary()):
        table = pa.table(
            {
                "q": pa.array([b"a\xe9", b"b", b"c", None], kind),
                "c": pa.array([[b"x"], [b"y"], [b"x", b"\xe9"], [b"x"]], pa.list_(kind)),
            }
        )
        pq.write_table(table, tmp_path / "a.parquet")
        rows, aside = read(source_of(tmp_path / "a.parquet"))
        assert [(row["q"], row[NAMES]) for row in rows] == [("b", ["y"])]
        assert [reason for reason, _ in aside] == ["not in utf-8", "not in utf-8", "no text"]


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        ({}, "q", "column 'q' of texts or numbers, found list<"),
        ({}, "c", "column 'c' of class names or lists of them, found struct<"),
        ({"weight": "w"}, "w", "column 'w' of numbers, found list<"),
        ({"indices": "i"}, "i", "column 'i' of lists of whole numbers, found int64"),
        ({"indices": "j", "values": "i"}, "i", "column 'i' of lists of numbers, found int64"),
    ],
)
def test_a_parquet_column_of_a_type_that_fits_not_is_told(
    tmp_path: Path, changes: dict[str, str], kind: str, expected: str
) -> None:
    columns = {"q": ["a"], "c": ["x"], "w": [1.0], "i": [1], "j": [[1]]}
    columns |= {"q": [["a"]]} if kind == "q" else {}
    columns |= {"c": [{"x": 1}]} if kind == "c" else {}
    columns |= {"w": [[1.0]]} if kind == "w" else {}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf"a\.parquet: expected a {expected}"):
        read(source_of(tmp_path / "a.parquet", **changes))


@pytest.mark.parametrize(
    "lists", [[[1.5], [2.0, 3.0], [None]], [["1.5"], ["2", "3"], ["x"]], [[2**70], [2, 3], [-0.5]]]
)
def test_lists_that_hold_no_indices_are_set_aside(tmp_path: Path, lists: list[Any]) -> None:
    lines = [json.dumps({"i": item, "c": "x"}) for item in lists]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    paths = [tmp_path / "a.jsonl"]
    if lists[0] != [2**70]:
        pq.write_table(pa.table({"i": lists, "c": ["x"] * 3}), tmp_path / "a.parquet")
        paths.append(tmp_path / "a.parquet")
    for path in paths:
        rows, aside = read(source_of(path, text=(), indices="i"))
        assert [row["i"] for row in rows] == [[2, 3]]
        assert len(aside) == 2


def test_missing_lists_beside_texts_are_empty_ones(tmp_path: Path) -> None:
    table = pa.table({"q": ["a", "b"], "c": ["x", "y"], "i": [None, [1]], "v": [None, [0.5]]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, aside = read(source_of(tmp_path / "a.parquet", indices="i", values="v"))
    assert [(row["i"], row["v"]) for row in rows] == [([], []), ([1], [0.5])]
    assert aside == []


@pytest.mark.parametrize(
    "line",
    [
        '{"q": ["a"], "c": "x", "w": 1}',
        '{"q": {"a": 1}, "c": "x", "w": 1}',
        '{"q": "a", "c": [["x"]], "w": 1}',
        '{"q": "a", "c": {"x": 1}, "w": 1}',
        '{"q": "a", "c": "x", "w": [1]}',
    ],
)
def test_a_json_field_of_a_type_that_fits_not_is_set_aside(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line}\n")
    rows, aside = read(source_of(tmp_path / "a.jsonl", weight="w"))
    assert (rows, [reason for reason, _ in aside]) == ([], ["no JSON object with these fields"] * 2)


def test_json_lines_are_read_alike_beside_any_others(tmp_path: Path) -> None:
    lines = ['{"i": "3 12", "v": "1 2.5", "c": ["x", null, 7]}', '{"i": "4", "v": "1", "c": ["y"]}']
    found = []
    for others in ([], ["[1]"]):
        (tmp_path / "a.jsonl").write_text("\n".join([*lines, *others]))
        source = source_of(tmp_path / "a.jsonl", text=(), indices="i", values="v")
        found.append(read(source)[0])
    assert found[0] == found[1]
    assert [(row["i"], row["v"], row[NAMES]) for row in found[0]] == [
        ([3, 12], [1.0, 2.5], ["x", "7"]),
        ([4], [1.0], ["y"]),
    ]


def test_numbers_name_classes_only_where_they_are_numbers(tmp_path: Path) -> None:
    numbers = [1e19, 2e19, float("inf"), float("nan"), 3.0, 2.5]
    for items in (numbers, numbers[:-1]):
        table = pa.table({"q": list("abcdef")[: len(items)], "c": items})
        pq.write_table(table, tmp_path / "a.parquet")
        rows, aside = read(source_of(tmp_path / "a.parquet"))
        names = [name for row in rows for name in row[NAMES]]
        expected = ["10000000000000000000", "20000000000000000000", "3", "2.5"]
        assert names == expected[: len(items) - 2]
        assert [reason for reason, _ in aside] == ["no class"] * 2
    (tmp_path / "a.jsonl").write_text('{"q": "a", "c": NaN}\n{"q": "b", "c": 7}\n')
    rows, aside = read(source_of(tmp_path / "a.jsonl"))
    assert ([row[NAMES] for row in rows], [reason for reason, _ in aside]) == (
        [["7"]],
        ["no class"],
    )


@pytest.mark.parametrize("text", ["", "q,c\n", "\n\n"])
def test_files_without_rows_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    config = PrepareConfig(
        source=str(tmp_path / "a.csv"), text=("q",), labels="c", columns=(), out=str(tmp_path / "o")
    )
    if text == "\n\n":
        config = replace(config, columns=("q", "c"))
    with pytest.raises(DataError, match=r"a\.csv: expected rows, found none in 1 file"):
        prepare(config, address="none")


def test_what_is_set_aside_can_be_looked_at_where_no_classes_are_left(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"q": "a", "c": 1}, {"q": "b", "c": 2}], indent=1))
    out = tmp_path / "out"
    config = PrepareConfig(source=str(tmp_path / "a.json"), text=("q",), labels="c", out=str(out))
    with pytest.raises(DataError) as error:
        prepare(config, address="none")
    assert f"set aside: 10 rows, see {out}/aside.parquet" in str(error.value)
    assert "10 of them for: no JSON object with these fields" in str(error.value)
    assert len(pq.read_table(out / "aside.parquet")) == 10


def test_text_files_are_no_lines_of_labels_and_features_if_columns_are_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.txt").write_text("q\tc\na\t1\n")
    with pytest.raises(ConfigError, match=r"name it with format=csv, tsv or jsonl"):
        source_of(tmp_path / "a.txt")
    assert len(read(source_of(tmp_path / "a.txt", format="tsv"))[0]) == 1


def test_the_first_line_of_labels_and_features_may_be_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    found = []
    for first in ("3 10 10\n", ""):
        path.write_text(f"{first}1,2 3:1 4:1\n2 5:1\n3 6:1\n")
        rows, aside = read(Source(PrepareConfig(source=str(path), format="xmc")))
        found.append([row[NAMES] for row in rows])
        assert aside == []
    assert found == [[["1", "2"], ["2"], ["3"]]] * 2


def test_features_in_another_order_are_the_same_query(tmp_path: Path) -> None:
    lines = [
        *[{"i": [3, 12, 7], "v": [1.0, 0.5, 2.0], "c": "x"}, {"i": [1], "v": [1.0], "c": "y"}],
        *[{"i": [12, 7, 3], "v": [0.5, 2.0, 1.0], "c": "x"}, {"i": [1], "v": [2.0], "c": "y"}],
        {"i": [12, 7, 3], "v": [1.0, 2.0, 0.5], "c": "x"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = PrepareConfig(
        source=str(tmp_path), indices="i", values="v", labels="c", out=str(tmp_path / "o"), test=0
    )
    assert prepare(config, address="none").rows["train"] == 4
    config = replace(config, values=None, out=str(tmp_path / "p"))
    assert prepare(config, address="none").rows["train"] == 2
    rows = pq.read_table(tmp_path / "p" / "train").to_pylist()
    assert sorted((row["i"], row["weight"]) for row in rows) == [([1], 2), ([3, 12, 7], 3)]


def test_the_classes_of_an_earlier_job_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "a", "c": "x"}\n{"q": "b", "c": "y"}\n')
    config = PrepareConfig(
        source=str(tmp_path / "a.jsonl"), text=("q",), labels="c", out=str(tmp_path / "first")
    )
    prepare(config, address="none")
    monkeypatch.chdir(tmp_path)
    config = replace(config, classes="first/classes.parquet", out=str(tmp_path / "second"))
    (tmp_path / "elsewhere").mkdir()

    def leave(step: str, done: int, tasks: int) -> None:
        monkeypatch.chdir(tmp_path / "elsewhere")

    assert prepare(config, address="none", progress=leave).classes == 2


@pytest.mark.parametrize("source", ["", "*.json*", "?.jsonl"])
def test_a_job_does_not_read_what_it_writes(tmp_path: Path, source: str) -> None:
    (tmp_path / "z.jsonl").write_text('{"q": "a", "c": "x"}\n{"q": "b", "c": "y"}\n')
    config = PrepareConfig(
        source=str(tmp_path / source), text=("q",), labels="c", out=str(tmp_path)
    )
    if source == "?.jsonl":
        assert prepare(config, address="none").rows_read == 2
        return
    with pytest.raises(ConfigError, match="out: expected another folder than that of the source"):
        prepare(config, address="none")
    assert [path.name for path in tmp_path.iterdir()] == ["z.jsonl"]


def test_a_setting_can_be_mended_before_any_row_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,c\na,x\nb,y\n")
    right = PrepareConfig(
        source=str(tmp_path / "a.csv"), text=("q",), labels="c", out=str(tmp_path / "o")
    )
    with pytest.raises(DataError, match="expected a column 'class'"):
        prepare(replace(right, labels="class", piece_bytes=3), address="none")
    expected = prepare(replace(right, out=str(tmp_path / "p")), address="none")
    assert prepare(right, address="none") == expected
    with pytest.raises(RunError, match=r"found others: min_count=1 there, 2 now; give another"):
        prepare(replace(right, min_count=2), address="none")
    (tmp_path / "a.csv").write_text("q,c\na,x\nb,y\nc,z\n")
    with pytest.raises(RunError, match=r"found others: a\.csv has 12 bytes there, 16 now"):
        prepare(right, address="none")


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "altered"])
def test_a_parquet_file_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    rows = pa.table(
        {"q": [f"text {i}" for i in range(3000)], "c": [f"{i % 7}" for i in range(3000)]}
    )
    (tmp_path / "raw").mkdir()
    pq.write_table(rows, tmp_path / "raw" / "a.parquet", row_group_size=500)
    pq.write_table(rows, tmp_path / "raw" / "b.parquet", row_group_size=500)
    whole = (tmp_path / "raw" / "b.parquet").read_bytes()
    damaged = {
        "empty": b"",
        "garbage": b"no Parquet " * 9,
        "cut": whole[: len(whole) // 2],
        "altered": whole[:2000] + bytes(9000) + whole[11_000:],
    }
    (tmp_path / "raw" / "b.parquet").write_bytes(damaged[damage])
    config = PrepareConfig(
        source=str(tmp_path / "raw"), text=("q",), labels="c", out=str(tmp_path / "out")
    )
    with pytest.raises(DataError, match=r"b\.parquet: expected Parquet that can be read, found: "):
        prepare(config, address="none")


def test_columns_may_be_called_as_this_program_calls_its_own(tmp_path: Path) -> None:
    table = pa.table({"names": ["a", "b"], "weight": ["x", "y"], "labels": [2.0, 3.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    config = PrepareConfig(
        source=str(tmp_path / "a.parquet"),
        text=("names",),
        labels="weight",
        weight="labels",
        out=str(tmp_path / "out"),
        test=0,
    )
    prepare(config, address="none")
    rows = pq.read_table(tmp_path / "out" / "train").to_pylist()
    assert sorted(rows, key=lambda row: str(row["names"])) == [
        {"names": "a", "labels": [0], "weight": 2.0},
        {"names": "b", "labels": [1], "weight": 3.0},
    ]
    for name in ("labels", "weight"):
        with pytest.raises(ConfigError, match=f"text: expected columns of other names than {name}"):
            replace(config, text=(name,), labels="names", weight=None).validate()
    with pytest.raises(ConfigError, match="indices: expected columns of other names than labels"):
        replace(config, indices="labels", labels="names").validate()
