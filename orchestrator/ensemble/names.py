"""The names of classes: id to name and back."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.errors import DataError


class ClassNames:
    """Names of the classes 0 to K - 1.

    Args:
        names: (K,) strings, in the order of the ids.
    """

    def __init__(self, names: pa.Array) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def of(self, ids: NDArray[np.int64]) -> list[list[str]]:
        """Return the names of (n, k) ids; -1, which stands for no class, is left out."""
        return [self.names.take(pa.array(row[row >= 0])).to_pylist() for row in ids]

    def ids(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the ids of names, int64.

        Raises:
            DataError: if there is no class of that name; says which are near.
        """
        found = pc.index_in(pa.array(names, self.names.type), self.names)
        if found.null_count:
            unknown = names[pc.index(pc.is_null(found), True).as_py()]
            near = difflib.get_close_matches(unknown, self._strings, n=3, cutoff=0.5)
            advice = f"; did you mean {' or '.join(near)}?" if near else "; see the class names"
            raise DataError(f"expected the name of a class, found '{unknown}'{advice}")
        ids: NDArray[np.int64] = found.to_numpy().astype(np.int64)
        return ids

    @cached_property
    def _strings(self) -> list[str]:
        strings: list[str] = self.names.to_pylist()
        return strings


def class_names(table: pa.Table, classes: int, where: str) -> ClassNames:
    """Return the names in a table of ids and names.

    Args:
        table: columns `id` (integer, each of 0 to K - 1 once, in any order) and `name`.
        classes: K.
        where: the words that name the table in an error.

    Raises:
        DataError: if columns are missing or of another type, ids are missing or twice there, or
            a name is null.
    """
    missing = {"id", "name"} - set(table.column_names)
    if missing:
        raise DataError(
            f"{where}: expected columns id and name, found {', '.join(table.column_names)}"
        )
    kinds = table.schema.field("id").type, table.schema.field("name").type
    texts = pa.types.is_string(kinds[1]) or pa.types.is_large_string(kinds[1])
    if not pa.types.is_integer(kinds[0]) or not texts:
        raise DataError(
            f"{where}: expected id of type int and name of type string, found {kinds[0]} and"
            f" {kinds[1]}; write them as those types"
        )
    for name in ("id", "name"):
        if nulls := table.column(name).null_count:
            raise DataError(
                f"{where}: expected a value in every row of column {name}, found {nulls:,} nulls;"
                " give every class an id and a name, an empty one if need be"
            )
    try:
        table.column("name").validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where}: expected names in UTF-8, found others: {error}; write them as UTF-8"
        ) from error
    ids = table.column("id").to_numpy()
    if len(ids) != classes or not np.array_equal(np.sort(ids), np.arange(classes)):
        raise DataError(
            f"{where}: expected each id from 0 to {classes - 1:,} once, found {len(ids):,} ids"
            + (f" from {ids.min():,} to {ids.max():,}" if len(ids) else "")
            + "; data.classes and data.class_names must belong together"
        )
    order = np.argsort(ids)
    return ClassNames(table.column("name").take(order).combine_chunks().cast(pa.large_string()))
