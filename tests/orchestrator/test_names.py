from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.ensemble.names import ClassNames, class_names
from workers.errors import DataError

FRUIT = ["apple", "pear", "plum", "quince"]


def table(ids: Any, names: Any) -> pa.Table:
    return pa.table({"id": pa.array(ids), "name": pa.array(names)})


@pytest.fixture
def fruit() -> ClassNames:
    return class_names(table([2, 0, 3, 1], ["plum", "apple", "quince", "pear"]), 4, "fruit")


def test_names_stand_in_the_order_of_the_ids(fruit: ClassNames) -> None:
    assert len(fruit) == 4
    assert fruit.of(np.array([[0, 1], [3, 2]])) == [["apple", "pear"], ["quince", "plum"]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("integer", [pa.int8(), pa.uint32(), pa.int64()])
def test_any_string_and_any_integer_will_do(kind: pa.DataType, integer: pa.DataType) -> None:
    columns = {"id": pa.array(range(4), integer), "name": pa.array(FRUIT, kind)}
    names = class_names(pa.table({**columns, "more": [0] * 4}), 4, "fruit")
    assert names.of(np.array([[3]])) == [["quince"]]


def test_names_may_come_in_pieces() -> None:
    pieces = [table([3, 1], ["quince", "pear"]), table([0, 2], ["apple", "plum"])]
    names = class_names(pa.concat_tables(pieces), 4, "fruit")
    assert names.of(np.arange(4)[None]) == [FRUIT]


def test_what_stands_for_no_class_has_no_name(fruit: ClassNames) -> None:
    assert fruit.of(np.array([[2, -1], [-1, -1]])) == [["plum"], []]
    assert fruit.of(np.empty((0, 2), np.int64)) == []


def test_ids_of_names(fruit: ClassNames) -> None:
    found = fruit.ids(["quince", "apple", "quince"])
    assert found.tolist() == [3, 0, 3]
    assert found.dtype == np.int64
    assert fruit.ids([]).tolist() == []


def test_of_classes_with_one_name_the_first_is_found() -> None:
    names = class_names(table([1, 0, 2], ["plum", "pear", "plum"]), 3, "fruit")
    assert names.ids(["plum"]).tolist() == [1]


def test_an_unknown_name_is_told_with_the_nearest(fruit: ClassNames) -> None:
    with pytest.raises(DataError, match="found 'appel'; did you mean apple"):
        fruit.ids(["pear", "appel"])
    with pytest.raises(DataError, match="expected the name of a class, found 'xyz'; see the class"):
        fruit.ids(["xyz"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (table([0, 1, 2], FRUIT[:3]), "expected each id from 0 to 3 once, found 3 ids from 0 to 2"),
        (table([0, 1, 2, 4], FRUIT), "expected each id from 0 to 3 once, found 4 ids from 0 to 4"),
        (table([-1, 0, 1, 2], FRUIT), "found 4 ids from -1 to 2"),
        (table([0, 1, 1, 3], FRUIT), "expected each id from 0 to 3 once, found 4 ids from 0 to 3"),
        (
            table([0, 1, 2, 3, 3], [*FRUIT, "quince"]),
            "expected each id from 0 to 3 once, found 5 ids from 0 to 3",
        ),
        (table(pa.array([], pa.int64()), pa.array([], pa.string())), "found 0 ids; data.classes"),
        (pa.table({"id": [0, 1, 2, 3]}), "expected columns id and name, found id"),
        (pa.table({"name": FRUIT}), "expected columns id and name, found name"),
        (table(["0", "1", "2", "3"], FRUIT), "id of type int and name of type string, found str"),
        (table([0.0, 1.0, 2.0, 3.0], FRUIT), "found double and string; write them as those types"),
        (table([0, 1, 2, 3], [4, 5, 6, 7]), "found int64 and int64; write them as those types"),
        (table([0, 1, 2, None], FRUIT), "every row of column id, found 1 nulls"),
        (table([0, 1, 2, 3], ["apple", None, "plum", None]), "column name, found 2 nulls"),
    ],
)
def test_a_table_that_does_not_name_the_classes_is_refused(bad: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=f"^fruit: .*{message}"):
        class_names(bad, 4, "fruit")


def test_names_are_utf_8() -> None:
    offsets = pa.array([0, 2, 4], pa.int32()).buffers()[1]
    names = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"ab\xb7d"))
    with pytest.raises(DataError, match=r"^fruit: expected names in UTF-8, found others"):
        class_names(table([0, 1], names), 2, "fruit")
