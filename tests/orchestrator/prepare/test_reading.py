from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.prepare import PrepareConfig, Source
from orchestrator.prepare.rows import NAMES
from workers.errors import ConfigError, DataError

Row = tuple[str, list[str], float]
ROWS: list[Row] = [
    ("red running shoes", ["shoe-1"], 1.0),
    ('27" monitor, black', ["m|27", "m2"], 2.0),
    ("two\nlines", ["12"], 0.5),
    ("größer als 日本", ["Äpfel"], 1.0),
    (" trailing space ", ["x"], 3.0),
]


def write_csv(path: Path, rows: list[Row], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["other", "query", "item", "count"])
        writer.writerows((i, text, ";".join(names), w) for i, (text, names, w) in enumerate(rows))


def write_tsv(path: Path, rows: list[Row]) -> None:
    lines = ["other\tquery\titem\tcount"]
    lines += [f"{i}\t{t}\t{';'.join(names)}\t{w}" for i, (t, names, w) in enumerate(rows)]
    path.write_text("\r\n".join(lines))


def write_jsonl(path: Path, rows: list[Row]) -> None:
    lines = [
        json.dumps({"query": t, "item": names, "count": w, "other": None}) for t, names, w in rows
    ]
    path.write_text("\n".join(lines))


def write_parquet(path: Path, rows: list[Row]) -> None:
    texts, names, weights = zip(*rows, strict=True)
    table = pa.table({"item": names, "query": texts, "count": weights, "other": [None] * len(rows)})
    pq.write_table(table, path, row_group_size=2)


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    "csv": write_csv,
    "tsv": write_tsv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def config_of(source: Path, **changes: Any) -> PrepareConfig:
    settings = {"text": ("query",), "labels": "item", "weight": "count", "label_separator": ";"}
    return PrepareConfig(source=str(source), **(settings | changes))


def rows_of(source: Source) -> list[Row]:
    found = []
    for piece in source.pieces():
        rows, aside = source.read(piece)
        assert len(aside) == 0
        columns = (rows[name].to_pylist() for name in ("query", NAMES, "weight"))
        found += list(zip(*columns, strict=True))
    return found


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("size", [1, 40, 1 << 20])
def test_all_formats_hold_the_same_rows_however_they_are_cut(
    tmp_path: Path, kind: str, size: int
) -> None:
    # What ends a line can be no part of a text in TSV.
    rows = [row for row in ROWS if "\n" not in row[0]] if kind == "tsv" else ROWS
    WRITERS[kind](tmp_path / f"a.{kind}", rows)
    WRITERS[kind](tmp_path / f"b.{kind}", rows[:2])
    source = Source(config_of(tmp_path, piece_bytes=size))
    assert source.format == kind
    assert rows_of(source) == rows + rows[:2]
    pieces = len([piece for piece in source.pieces() if piece.file == f"a.{kind}"])
    assert pieces == 1 if size > 1000 else pieces > 1


@given(
    texts=st.lists(
        st.text(alphabet=st.sampled_from('ab", \n\r\té日')).filter(str.strip),
        min_size=1,
        max_size=9,
    ),
    size=st.integers(1, 60),
)
@settings(max_examples=80, deadline=None)
def test_a_csv_file_is_cut_between_rows_only(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    write_csv(path, [(text, ["a"], 1.0) for text in texts])
    text = path.read_bytes().decode()
    expected = [row[1] for row in csv.reader(io.StringIO(text, newline=""))]
    found = rows_of(Source(config_of(path, piece_bytes=size)))
    assert [text for text, _, _ in found] == expected[1:]


def aside_of(source: Source) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for piece in source.pieces():
        aside = source.read(piece).aside
        assert set(aside["file"].to_pylist()) <= {str(source.config.source)}
        found += zip(aside["reason"].to_pylist(), aside["row"].to_pylist(), strict=True)
    return found


def test_rows_of_a_csv_file_that_cannot_be_used_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    good, more = b"good,1,1\n", ",".join(f"x{i}" for i in range(4)).encode()
    path.write_bytes(
        b"query,item,count\n"
        + good
        + b"caf\xe9,1,1\n"
        + b"too,few\n"
        + b"  ,1,1\n"
        + b"no label, ; ,1\n"
        + b"heavy,1,many\n"
        + b"negative,1,-1\n"
        + b"all,a;b;c;d,1\n"
        + more
        + b"\n"
        + good
    )
    source = Source(config_of(path, most_labels=3))
    (piece,) = source.pieces()
    assert source.read(piece).rows["query"].to_pylist() == ["good", "good"]
    assert [(reason, row[:20]) for reason, row in aside_of(source)] == [
        ("3 columns expected, found 2", "too,few"),
        ("3 columns expected, found 4", "x0,x1,x2,x3"),
        ("not in utf-8", "{'query': b'caf\\xe9'"),
        ("no text", '{"query": "  ", "ite'),
        ("no class", '{"query": "no label"'),
        ("a weight that is no finite number of at least 0", '{"query": "heavy", "'),
        ("a weight that is no finite number of at least 0", '{"query": "negative"'),
        ("more than 3 classes", '{"query": "all", "it'),
    ]
    latin = Source(config_of(path, most_labels=3, encoding="latin-1"))
    assert latin.read(piece).rows["query"].to_pylist() == ["good", "café", "good"]


def test_features_of_a_csv_file_are_numbers_between_spaces(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = ["ids,values,item", "3 12,0.5 1e-1,x", " 7 ,2,y", "1 x,1 1,x", "1,1.5.2,x", ",,x"]
    path.write_text("\n".join([*lines, "1 2,1,x", "1.5,1,x", "1,nan,x", f"{2**63},1,x"]))
    changes = {"text": (), "indices": "ids", "values": "values", "weight": None}
    source = Source(config_of(path, **changes))
    (piece,) = source.pieces()
    rows = source.read(piece).rows
    assert rows["ids"].to_pylist() == [[3, 12], [7]]
    assert np.allclose(rows["values"].to_pylist()[0], [0.5, 0.1])
    assert [reason for reason, _ in aside_of(source)] == [
        "an index that is no number",
        "a value that is no number",
        "no features",
        "as many values as indices expected, found others",
        "an index that is no number",
        "a value that is not finite",
        "an index that is no number",
    ]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "xmc"])
def test_a_row_with_a_million_classes_is_set_aside(tmp_path: Path, kind: str) -> None:
    many = [str(number) for number in range(10**6)]
    path = tmp_path / f"a.{kind}"
    config = config_of(path)
    if kind == "xmc":
        lists = [(["7"], {1: 1.0}), (many, {2: 1.0}), (["8"], {3: 1.0})]
        write_xmc(path, [(list(map(int, names)), features) for names, features in lists])
        config = PrepareConfig(source=str(path), format="xmc")
    else:
        WRITERS[kind](path, [("a", ["7"], 1.0), ("b", many, 1.0), ("c", ["8"], 1.0)])
    source = Source(replace(config, piece_bytes=1 << 20))
    found = [source.read(piece) for piece in source.pieces()]
    names = [each for rows, _ in found for each in rows[NAMES].to_pylist()]
    assert names == [["7"], ["8"]]
    ((reason, quoted),) = aside_of(source)
    assert reason == "more than 10,000 classes"
    assert len(quoted) <= 200
    allowed = Source(replace(config, most_labels=10**6))
    (piece,) = allowed.pieces()
    assert allowed.read(piece).rows[NAMES].to_pylist()[1] == many


def test_lines_that_are_no_json_objects_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        '{"query": "a", "item": 12}',
        '{"query": "b", "item": 12.0}',
        '{"query": "c", "item": ["x", 7]}',
        '{"query": "2024-01-01", "item": "12"}',
        "{broken",
        "[1]",
        '{"query": {"deep": 1}, "item": 1}',
        '{"query": "half \\ud800", "item": 1}',
        '{"item": 1}',
    ]
    path.write_text("\n".join(lines))
    source = Source(config_of(path, weight=None))
    (piece,) = source.pieces()
    rows = source.read(piece).rows
    assert rows["query"].to_pylist() == ["a", "b", "c", "2024-01-01"]
    assert rows[NAMES].to_pylist() == [["12"], ["12"], ["x", "7"], ["12"]]
    assert [reason for reason, _ in aside_of(source)] == [
        *["no JSON object with these fields"] * 4,
        "no text",
    ]


def test_names_are_one_class_whatever_their_form(tmp_path: Path) -> None:
    names = ["caf\u00e9", "cafe\u0301", " café ", "café"]
    pq.write_table(pa.table({"query": ["a"], "item": [names]}), tmp_path / "a.parquet")
    source = Source(config_of(tmp_path, weight=None))
    (piece,) = source.pieces()
    assert source.read(piece).rows[NAMES].to_pylist() == [["café"]]


@pytest.mark.parametrize(
    "kind", [pa.int32(), pa.uint64(), pa.float64(), pa.string(), pa.large_string()]
)
def test_classes_of_any_type_have_the_same_names(tmp_path: Path, kind: pa.DataType) -> None:
    items = pa.array([3, 12, None, 3]).cast(kind)
    table = pa.table({"query": ["a", "b", "c", "d"], "item": items})
    pq.write_table(table, tmp_path / "a.parquet")
    source = Source(config_of(tmp_path, weight=None))
    (piece,) = source.pieces()
    rows, aside = source.read(piece)
    assert rows[NAMES].to_pylist() == [["3"], ["12"], ["3"]]
    assert aside["reason"].to_pylist() == ["no class"]


def write_xmc(path: Path, rows: list[tuple[list[int], dict[int, float]]]) -> None:
    lines = [
        f"{','.join(map(str, labels))} {' '.join(f'{i}:{v!r}' for i, v in features.items())}"
        for labels, features in rows
    ]
    path.write_text("\n".join([f"{len(rows)} 100 10", *lines]) + "\n")


@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.integers(0, 10**12), min_size=1, max_size=3, unique=True),
            st.dictionaries(
                st.integers(0, 10**9),
                st.floats(width=32, allow_nan=False, allow_infinity=False),
                min_size=1,
                max_size=4,
            ),
        ),
        min_size=1,
        max_size=8,
    ),
    size=st.integers(1, 200),
)
@settings(max_examples=60, deadline=None)
def test_lines_of_labels_and_features_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[list[int], dict[int, float]]],
    size: int,
) -> None:
    path = tmp_path_factory.mktemp("xmc") / "a.txt"
    write_xmc(path, rows)
    source = Source(PrepareConfig(source=str(path), format="xmc", piece_bytes=size))
    found = [source.read(piece) for piece in source.pieces()]
    assert sum(len(each.aside) for each in found) == 0
    table = pa.concat_tables([each.rows for each in found])
    assert table[NAMES].to_pylist() == [[str(label) for label in labels] for labels, _ in rows]
    assert table["indices"].to_pylist() == [list(features) for _, features in rows]
    values = np.concatenate([list(features.values()) for _, features in rows])
    flat = table["values"].combine_chunks().flatten().to_numpy()
    assert np.allclose(flat, values, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "line", ["1,2", "1 3", "1 3:", "1 3:x", "1 :4", "a 3:1", "1,, 3:1", " 3:1", "1 3:1e", "9" * 30]
)
def test_lines_that_are_no_labels_and_features_are_set_aside(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"2 10 10\n1 2:0.5\n{line}\r\n\n1 2:5e-1 \n")
    source = Source(PrepareConfig(source=str(path), format="xmc"))
    (piece,) = source.pieces()
    rows, aside = source.read(piece)
    assert rows["values"].to_pylist() == [[0.5], [0.5]]
    assert len(aside) == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text": ("title",)}, "expected a column 'title' in its first line, found other, query"),
        ({"columns": ("query", "item", "count")}, None),
    ],
)
def test_a_csv_file_without_a_line_of_names_says_what_to_do(
    tmp_path: Path, changes: dict[str, Any], problem: str | None
) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ROWS)
    if problem is None:
        path.write_text("shoes,1,2\n")
    source = Source(config_of(path, **changes))
    (piece,) = source.pieces()
    if problem is None:
        assert source.read(piece).rows["query"].to_pylist() == ["shoes"]
        return
    with pytest.raises(DataError, match=problem):
        source.read(piece)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"source": ""}, "source: expected a file"),
        ({"text": ()}, "text: expected text columns"),
        ({"values": "v"}, "values: expected indices beside it"),
        ({"label_separator": ""}, "label_separator: expected a sign"),
        ({"columns": ("query", "item")}, "columns: expected count among them"),
        ({"piece_bytes": 0}, "piece_bytes: expected at least 1, found 0"),
        ({"encoding": "utf-9"}, "encoding: expected one that Python knows"),
        ({"encoding": "utf-16"}, "in which commas and line ends are one byte"),
        ({"format": "xmc"}, "text: expected nothing for format=xmc"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], problem: str) -> None:
    config = replace(config_of(Path("rows.csv")), **changes)
    with pytest.raises(ConfigError, match=problem):
        config.validate()


def test_files_of_several_formats_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ROWS)
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"expected files of one format, found csv, jsonl"):
        Source(config_of(tmp_path))
    assert len(rows_of(Source(config_of(tmp_path, format="csv")))) == len(ROWS)
