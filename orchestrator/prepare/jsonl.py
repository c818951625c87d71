"""JSON lines: an object a line."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pyarrow as pa
from pyarrow import json as arrow_json

from orchestrator.prepare.config import PrepareConfig


def read_jsonl(text: bytes, config: PrepareConfig) -> tuple[pa.Table, list[str]]:
    """Return the rows of a piece of a file, and the lines that are none.

    Arrow reads lines whose fields have one type each, and where it cannot, each line is looked at
    by itself: fields are then texts, or lists of them or of numbers.
    """
    if config.encoding.lower() in ("utf-8", "utf8"):
        try:
            table = _by_arrow(text, config)
            if table is not None:
                return table, []
        except pa.ArrowException:
            pass
    return _line_by_line(text, config)


def _by_arrow(text: bytes, config: PrepareConfig) -> pa.Table | None:
    if not text.strip():
        return None
    table = arrow_json.read_json(
        io.BytesIO(text),
        arrow_json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        arrow_json.ParseOptions(unexpected_field_behavior="infer"),
    )
    wanted = config.inputs()
    if set(wanted) - set(table.column_names):
        return None
    table = table.select(wanted)
    # Arrow takes bytes that are no text along.
    table.validate(full=True)
    kinds = zip(table.column_names, table.schema.types, strict=True)
    return table if all(_is_plain(kind, name, config) for name, kind in kinds) else None


def _is_plain(kind: pa.DataType, name: str, config: PrepareConfig) -> bool:
    """Return whether a field is of its type, and its text as it was written.

    What Arrow takes for a time is not, nor is a class that is called 12 in one line and 12.5 in
    another.
    """
    if name in (config.indices, config.values):
        if not pa.types.is_list(kind):
            return False
        floats = name == config.values and pa.types.is_floating(kind.value_type)
        return bool(floats or pa.types.is_integer(kind.value_type))
    if name == config.weight:
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
    if name == config.labels and name not in config.text and pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind))


def _line_by_line(text: bytes, config: PrepareConfig) -> tuple[pa.Table, list[str]]:
    rows: list[dict[str, Any]] = []
    wrong = []
    for line in text.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode(config.encoding))
            rows.append({name: _fitted(name, row.get(name), config) for name in config.inputs()})
        except (UnicodeDecodeError, ValueError, AttributeError, TypeError, RecursionError):
            wrong.append(line.decode("utf-8", "replace"))
    schema = pa.schema([(name, _kind(name, config)) for name in config.inputs()])
    return pa.Table.from_pylist(rows, schema), wrong


def _kind(name: str, config: PrepareConfig) -> pa.DataType:
    kinds = {
        config.indices: pa.list_(pa.int64()),
        config.values: pa.list_(pa.float64()),
        config.labels: pa.list_(pa.string()),
        config.weight: pa.float64(),
    }
    return kinds.get(name, pa.string())


def _fitted(name: str, value: Any, config: PrepareConfig) -> Any:
    """Return a field as its column takes it; `TypeError` or `ValueError` if it cannot be."""
    if _is_missing(value):
        return None
    if name in (config.indices, config.values):
        number = _whole if name == config.indices else float
        return [number(item) for item in (value.split() if isinstance(value, str) else value)]
    if name == config.weight:
        return float(value)
    if name == config.labels:
        if isinstance(value, list):
            return [_name(item) for item in value if not _is_missing(item)]
        text = _name(value)
        split = config.label_separator is not None
        return text.split(config.label_separator) if split else [text]
    return _name(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _whole(value: Any) -> int:
    number = int(value)
    if (number != value and not isinstance(value, str)) or not -(2**63) <= number < 2**63:
        raise ValueError("no whole number")
    return number


def _name(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError("neither text nor number")
    text = str(value)
    # A lone half of a pair of surrogates is no text.
    text.encode()
    return text
