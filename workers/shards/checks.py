"""What rows must be like, checked as they are read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.config import DataConfig
from workers.errors import DataError

_LARGEST = float(np.finfo(np.float32).max)


def check_rows(
    table: pa.Table, data: DataConfig, where: str, first_row: int, *, labels: str = "required"
) -> None:
    """Check rows as they are read.

    Args:
        table: with the columns that `data` names.
        data: names the columns.
        where: the words that name the rows' place in an error.
        first_row: number of the first row there.
        labels: `required`; `optional`, where lists of them may be empty; or `none`,
            where there are no labels to check.

    Raises:
        DataError: for nulls, text that is not UTF-8, numbers that are not finite, indices
            and values that do not match, rows without labels, and labels outside [0, K).
    """
    for name in data.columns(labels=labels != "none"):
        column = _Column(name, table.column(name), where, first_row)
        column.check_nulls()
        if name in data.text:
            column.check_text()
        elif name in (data.values, data.dense):
            column.check_numbers("finite numbers", -_LARGEST)
        elif name == data.weight:
            column.check_numbers("finite weights of at least 0", 0.0)
        elif name == data.labels:
            column.check_labels(data.classes, required=labels == "required")
        if name == data.values:
            column.check_lengths(str(data.indices), table.column(data.indices))


def check_type(name: str, kind: pa.DataType, data: DataConfig, where: str) -> None:
    """Check that a column has a type that fits to what `data` says it is.

    Args:
        name: of the column.
        kind: its type.
        data: names the columns.
        where: the words that name its place in an error.

    Raises:
        DataError: it has not.
    """
    inner = kind.value_type if is_list(kind) else None
    number = pa.types.is_integer(inner or kind) or pa.types.is_floating(inner or kind)
    fits, wanted = True, ""
    if name in data.text:
        fits, wanted = pa.types.is_string(kind) or pa.types.is_large_string(kind), "string"
    elif name == data.indices:
        fits, wanted = inner is not None and pa.types.is_integer(inner), "list<int>"
    elif name == data.values:
        fits, wanted = inner is not None and number, "list<float>"
    elif name == data.dense:
        fits = pa.types.is_fixed_size_list(kind) and number
        wanted = "fixed_size_list<float>"
    elif name == data.labels:
        fits, wanted = pa.types.is_integer(inner or kind), "int or list<int>"
    elif name == data.weight:
        fits, wanted = inner is None and number, "float"
    if not fits:
        raise DataError(
            f"{where}: expected column '{name}' of type {wanted}, found {kind}; write it as that"
            " type, or name another column"
        )


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column holds a list in each row."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


class _Column:
    # One column, and the words that name a place in it.

    def __init__(self, name: str, column: pa.ChunkedArray, where: str, first_row: int) -> None:
        self._name = name
        self._column = column
        self._values = pc.list_flatten(column) if is_list(column.type) else column
        self._where = where
        self._first_row = first_row

    def check_nulls(self) -> None:
        if self._column.null_count:
            row = pc.index(pc.is_null(self._column), True).as_py()
        elif self._values.null_count:
            row = self._row(pc.index(pc.is_null(self._values), True).as_py())
        else:
            return
        raise self._error(row, "a value", "null", "fill or drop such rows first")

    def check_text(self) -> None:
        try:
            self._column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise self._error(
                None, "text in UTF-8", f"bytes that are not ({error})", "write the shard again"
            ) from error

    def check_numbers(self, expected: str, least: float) -> None:
        numbers = self._values.to_numpy().astype(np.float64, copy=False)
        fit = (numbers >= least) & (numbers <= _LARGEST)
        if not fit.all():
            position = int(fit.argmin())
            found = str(numbers[position])
            raise self._error(self._row(position), expected, found, "mend or drop such rows first")

    def check_labels(self, classes: int, *, required: bool) -> None:
        if required and not self._lengths().all():
            row = int(self._lengths().argmin())
            raise self._error(row, "at least one label", "none", "drop such rows first")
        labels = self._values.to_numpy()
        fit = (labels >= 0) & (labels < classes)
        if not fit.all():
            position = int(fit.argmin())
            raise self._error(
                self._row(position),
                f"labels in [0, {classes})",
                str(labels[position]),
                "set data.classes to the number of classes, or map the labels to ids without gaps",
            )

    def check_lengths(self, other_name: str, other: pa.ChunkedArray) -> None:
        mine, others = self._lengths(), _Column(other_name, other, "", 0)._lengths()
        if not np.array_equal(mine, others):
            row = int((mine != others).argmax())
            raise self._error(
                row,
                f"as many values as column '{other_name}' has indices, {others[row]},",
                str(mine[row]),
                "write both lists with the same length",
            )

    def _lengths(self) -> NDArray[np.int64]:
        if not is_list(self._column.type):
            return np.ones(len(self._column), np.int64)
        lengths: NDArray[np.int64] = (
            pc.list_value_length(self._column).fill_null(0).to_numpy().astype(np.int64)
        )
        return lengths

    def _row(self, position: int) -> int:
        return int(np.searchsorted(self._lengths().cumsum(), position, side="right"))

    def _error(self, row: int | None, expected: str, found: str, advice: str) -> DataError:
        place = self._where if row is None else f"{self._where}, row {self._first_row + row}"
        return DataError(
            f"{place}: expected {expected} in column '{self._name}', found {found}; {advice}"
        )
