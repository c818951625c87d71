"""The data of `examples.api_search`, made from small source trees."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.api_search import dataset, extract, neighbours
from examples.api_search.__main__ import held_out, settings
from examples.api_search.names import words
from examples.api_search.sentences import normalised, sentences

INIT = '''
"""Small tools for tests of tools."""
from ._core.shapes import Circle
from ._core import area as area_of
__all__ = ["Circle", "area_of", "lib"]
'''
SHAPES = '''
class Circle:
    """A round shape with one centre.

    It has the same radius in every direction. Its area grows with the square.
    """

    radius: float = 1.0
    """Distance from the centre to the edge."""

    def __init__(self):
        """Makes a circle around the origin."""

    def grow(self, factor):
        """Makes the circle larger by a factor.

        Args:
            factor (float): how many times larger the radius becomes.

        Returns:
            The circle itself after growing.

        Example::

            >>> Circle().grow(2)
        """
'''
CORE = '''
def area(shape):
    """Computes the surface of a shape.

    See Also
    --------
    perimeter : Length of the outer border.

    Parameters
    ----------
    shape : Circle, optional
        What the surface is wanted of.
    """
'''
DOCS = '''
from numpy._core.function_base import add_newdoc
note = "Negative input is turned into zero. "
add_newdoc('numpy._core', 'clip0', """Cuts away the negative part. """ + note)
add_newdoc('numpy._core', 'grid', ('step', """Distance between two points."""))
rectify = _add_docstr(_C.rectify, r"""
rectify(input) -> Tensor

Sets each negative element of :attr:`input` to zero.
""".format(**common))
def load(path): pass
load.__doc__ = """Loads a shape from a {0} file.
{1}""".format("text", note)
'''
CYTHON = '''
include "more.pxi"

cdef class Buffer(_Base):
    """
    Memory that does not move.
    """
    cdef int size

    def slice(self, offset=0,
              length=None):
        """Takes a part of the memory without a copy.

        Parameters
        ----------
        offset : int
            Where the part begins.
        """

cpdef int total(x) except -1:
    \'\'\'Adds up all the parts.\'\'\'
'''
INCLUDED = '''
def allocate(size):
    r"""Asks the pool for memory."""
'''


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def package(tmp_path: Path) -> extract.Source:
    folder = tmp_path / "tiny"
    write(
        folder,
        **{
            "__init__.py": INIT,
            "_core/__init__.py": CORE,
            "_core/shapes.py": SHAPES,
            "docs.py": DOCS,
            "lib.pyx": CYTHON,
            "more.pxi": INCLUDED,
            "broken.py": "def",
            "tests/test_shapes.py": '"""Tests of all the shapes."""',
        },
    )
    return extract.Source("tiny", folder)


def found(package: extract.Source) -> dict[str, list[str]]:
    return dataset.sentences_by_name(extract.read([package]))


def test_objects_have_public_names(package: extract.Source) -> None:
    assert set(found(package)) == {
        "tiny",
        "tiny.Circle",
        "tiny.Circle.radius",
        "tiny.Circle.grow",
        "tiny.area_of",
        "tiny.docs.rectify",
        "tiny.docs.load",
        "tiny.lib.Buffer",
        "tiny.lib.Buffer.slice",
        "tiny.lib.total",
        "tiny.lib.allocate",
        "numpy.clip0",
        "numpy.grid.step",
    }


def test_a_constructor_speaks_of_its_class(package: extract.Source) -> None:
    assert found(package)["tiny.Circle"] == [
        "A round shape with one centre.",
        "It has the same radius in every direction.",
        "Its area grows with the square.",
        "Makes a circle around the origin.",
    ]


def test_parameters_keep_their_descriptions_and_other_objects_are_left_out(
    package: extract.Source,
) -> None:
    texts = found(package)
    assert texts["tiny.Circle.grow"] == [
        "Makes the circle larger by a factor.",
        "how many times larger the radius becomes.",
        "The circle itself after growing.",
    ]
    assert texts["tiny.area_of"] == [
        "Computes the surface of a shape.",
        "What the surface is wanted of.",
    ]


def test_documentation_attached_by_calls_and_assignments(package: extract.Source) -> None:
    texts = found(package)
    assert texts["numpy.clip0"] == [
        "Cuts away the negative part.",
        "Negative input is turned into zero.",
    ]
    assert texts["numpy.grid.step"] == ["Distance between two points."]
    assert texts["tiny.docs.rectify"] == ["Sets each negative element of input to zero."]
    assert texts["tiny.docs.load"] == ["Loads a shape from a file."]


def test_cython_files_and_what_they_include(package: extract.Source) -> None:
    texts = found(package)
    assert texts["tiny.lib.Buffer"] == ["Memory that does not move."]
    assert texts["tiny.lib.Buffer.slice"] == [
        "Takes a part of the memory without a copy.",
        "Where the part begins.",
    ]
    assert texts["tiny.lib.total"] == ["Adds up all the parts."]
    assert texts["tiny.lib.allocate"] == ["Asks the pool for memory."]


def test_compiled_modules_are_asked_for_their_documentation() -> None:
    texts = extract.read([], compiled=["itertools", "no_such_module_anywhere"])
    assert any("overlapping pairs" in text for text in texts["itertools.pairwise"])


def test_a_replaced_hook_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = extract.read([], compiled=["sys"])
    monkeypatch.setattr(sys, "excepthook", lambda *error: None)
    assert extract.read([], compiled=["sys"]) == before
    assert "sys.excepthook" in before


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (
            "Uses :meth:`~a.b.run` and ``x`` of `site <http://a.b>`_ now.",
            ["Uses a.b.run and x of site now."],
        ),
        (
            "One fine day, e.g. Monday. Two fine\nlines here!",
            ["One fine day, e.g. Monday.", "Two fine lines here!"],
        ),
        (
            "Head of it all\n\n>>> f(1)\nvalue of this\n\nTail of it all",
            ["Head of it all", "Tail of it all"],
        ),
        (
            "Runs the code::\n\n    a line of code\n\nThen it stops there.",
            ["Runs the code", "Then it stops there."],
        ),
        (
            "- first of the items\n- second of the items",
            ["first of the items", "second of the items"],
        ),
        ("Equal to :math:`\\frac{a}{b}` for all values.", []),
        ("Too short.", []),
        (
            ".. versionadded:: 1.2\n   Some words about it.\n\nWhat it really does.",
            ["What it really does."],
        ),
        (".. note::\n   Only for small input.", ["Only for small input."]),
        (":param x: the value to keep\n:type x: a type of value", ["the value to keep"]),
        ("Same words said twice. SAME words said twice", ["Same words said twice."]),
        ("f(x, y) -> a long result type\n\nAdds up two numbers.", ["Adds up two numbers."]),
    ],
)
def test_sentences(docstring: str, expected: list[str]) -> None:
    assert sentences(docstring) == expected


def test_sentences_are_cut_at_forty_words() -> None:
    assert len(sentences("word " * 60 + "end.")[0].split()) == 40


def test_names_in_words() -> None:
    assert words("torch.nn.BatchNorm1d") == "torch nn batch norm1d"
    assert words("http.HTTPServer.serve_forever") == "http http server serve forever"


def test_boilerplate_and_aliases_are_dropped() -> None:
    texts = {
        f"m.f{n}": ["Returns the same thing.", f"Made for use number {n} only."] for n in range(6)
    }
    texts["m.alias_of_f1"] = texts["m.f1"]
    texts["m.nothing"] = ["Returns the same thing."]
    kept = dataset.sentences_by_name(texts)
    assert kept == {f"m.f{n}": [f"Made for use number {n} only."] for n in range(6)}


def documented(objects: int) -> dict[str, list[str]]:
    return {
        f"m.f{n}": [f"Sentence {s} of object {n}." for s in range(1 + n % 5)] + ["A shared line."]
        for n in range(objects)
    }


def test_one_sentence_is_held_out_of_each_object_with_three() -> None:
    texts = documented(40)
    split = dataset.split_rows(texts, seed=3)
    assert split.names == sorted(texts)
    asked = [split.names[label] for _, label in split.test]
    assert asked == [name for name in sorted(texts) if len(texts[name]) >= 3]
    assert all(text in texts[split.names[label]] for text, label in split.test)
    assert len(split.train) + len(split.test) == sum(len(own) + 1 for own in texts.values())


def test_no_held_out_sentence_is_in_train() -> None:
    split = dataset.split_rows(documented(40))
    seen = {normalised(text) for text, _ in split.train}
    assert split.test
    assert not seen & {normalised(text) for text, _ in split.test}


def test_the_held_out_sentence_is_chosen_by_hash() -> None:
    texts = documented(40)
    one, other = dataset.split_rows(texts, seed=0), dataset.split_rows(texts, seed=1)
    first = {texts[name][0] for name in texts}
    assert any(text not in first for text, _ in one.test)
    assert one.test != other.test
    assert one.test == dataset.split_rows(dict(reversed(texts.items())), seed=0).test


def files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_build_writes_the_same_bytes_twice(tmp_path: Path, package: extract.Source) -> None:
    lines: list[str] = []
    summary = dataset.build(
        tmp_path / "one", sources=[package], rows_per_shard=10, progress=lines.append
    )
    dataset.build(tmp_path / "two", sources=[package], rows_per_shard=7)
    dataset.build(tmp_path / "two", sources=[package], rows_per_shard=10)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert summary.train_shards == -(-summary.train_rows // 10) > 1
    assert any("tiny" in line for line in lines)


def test_build_writes_the_schema_and_dense_ids(tmp_path: Path, package: extract.Source) -> None:
    summary = dataset.build(tmp_path, sources=[package], rows_per_shard=10, rows_per_group=4)
    shard = pq.ParquetFile(tmp_path / "train" / "part-000.parquet")
    assert shard.schema_arrow.equals(dataset.SCHEMA)
    assert [shard.metadata.row_group(n).num_rows for n in range(3)] == [4, 4, 2]
    names = pq.read_table(tmp_path / "labels.parquet")
    assert names["id"].to_pylist() == list(range(summary.classes))
    assert names["name"].to_pylist() == sorted(names["name"].to_pylist())
    train = pa.concat_tables([pq.read_table(p) for p in (tmp_path / "train").iterdir()])
    assert set(train["labels"].to_pylist()[0]) <= set(range(summary.classes))
    assert {label for row in train["labels"].to_pylist() for label in row} == set(
        range(summary.classes)
    )
    stats = json.loads((tmp_path / "stats.json").read_text(encoding="utf-8"))
    assert stats["classes"] == summary.classes
    assert stats["test_rows"] == summary.test_rows == pq.read_table(tmp_path / "test").num_rows


def test_the_run_trains_on_the_built_data_and_is_valid(tmp_path: Path) -> None:
    config = settings(tmp_path, classes=30_000)
    assert (config.worlds, config.data.classes, config.data.text) == (8, 30_000, ("text",))
    assert config.data.train == str(tmp_path / "data" / "train")
    assert config.partition.buckets * 4 <= config.data.classes


def test_held_out_rows_are_spread_over_the_test_split(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    table = pa.table({"text": [f"row {i}" for i in range(10)], "labels": [[i] for i in range(10)]})
    pq.write_table(table, tmp_path / "test" / "part-000.parquet")
    held = held_out(tmp_path, 5)
    assert held.texts == [f"row {label}" for label in held.labels]
    assert len(held.texts) == 5
    assert held.labels[0] == 0


def test_neighbours_rank_classes_by_their_nearest_row() -> None:
    texts = ["grey cats sleep", "grey cats sleep long", "loud dogs bark", "small birds sing"]
    labels = np.array([7, 2, 7, 5])
    model = neighbours.Neighbours(texts, labels)
    ranked = model.rank(["dogs bark", "grey cats sleep long", "unheard of"], top=3, chunk=2)
    assert ranked[0, 0] == 7
    assert ranked[1].tolist() == [2, 7, 5]
    assert ranked[2].tolist() == [2, 5, 7]


def test_neighbours_agree_with_dense_cosines() -> None:
    split = dataset.split_rows(documented(30))
    texts, labels = [text for text, _ in split.train], np.array([label for _, label in split.train])
    model = neighbours.Neighbours(texts, labels)
    queries = [text for text, _ in split.test]
    vectors = [
        np.hstack([v.transform(rows).toarray() for v in model.vectorizers])
        for rows in (queries, texts)
    ]
    cosines = vectors[0] @ vectors[1].T / 2
    best = [
        max(cosines[row][labels == label].max() for label in range(30))
        for row in range(len(queries))
    ]
    first = model.rank(queries, top=1)[:, 0]
    chosen = [cosines[row][labels == first[row]].max() for row in range(len(queries))]
    np.testing.assert_allclose(chosen, best, rtol=1e-5)


def test_scores_count_hits_by_rank() -> None:
    ranked = np.arange(100).reshape(1, 100).repeat(4, axis=0)
    result = neighbours.scores(ranked, np.array([0, 9, 10, 500]))
    assert (result.precision_at_1, result.recall_at_10, result.recall_at_100) == (0.25, 0.5, 0.75)


def test_evenly_spaced_queries() -> None:
    assert neighbours.evenly_spaced(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert neighbours.evenly_spaced(3, None).tolist() == [0, 1, 2]
