"""Files as they come: wrong types, wrong signs, no rows, marks that belong to no row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.prepare import PrepareConfig, Source


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
    assert [row["names"] for row in read(source)[0]] == [["x1"], ["x1"]]
    # The last line is no object: each is looked at by itself.
    (tmp_path / "a.jsonl").write_bytes(mark + b'{"q": "a", "c": "x"}\n[1]\n')
    rows, aside = read(source_of(tmp_path / "a.jsonl", encoding=encoding))
    assert [row["q"] for row in rows] == ["a"]
    assert len(aside) == 1
    (tmp_path / "a.txt").write_bytes(mark + b"1 10 10\n1 2:0.5\n")
    rows, aside = read(Source(PrepareConfig(source=str(tmp_path / "a.txt"), format="xmc")))
    assert ([row["names"] for row in rows], aside) == ([["1"]], [])


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
