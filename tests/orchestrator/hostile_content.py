"""Contents that are well formed and wrong: tensors, tables, and values of all kinds."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from workers.storage.formats import content_sha256

Make = Callable[[], bytes]
Write = Callable[[Any], bytes]
CLASSES = 64

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    7,
    2**31,
    2**63,
    10**400,
    1.5,
    -2.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../../outside/secret",
    "/etc/passwd",
    "01-../../x",
    "a\x00b",
    "\ud800",
    "9" * 50,
    [],
    [[]],
    [1, "a", None],
    {},
    {"a": {"b": [1]}},
)
"""What stands in the place of each value."""
PETABYTE = 1 << 50


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self._command,)


def reader(path: str) -> Callable[[bytes], tuple[Any, Write]] | None:
    """Return what reads a file of values, and gives what writes such a file; None for others."""
    pure = PurePosixPath(path)
    return {".json": _json, ".yaml": _yaml, "COMMIT": _json}.get(pure.suffix or pure.name)


def _json(data: bytes) -> tuple[Any, Write]:
    return json.loads(data), lambda values: json.dumps(_sealed(values)).encode()


def _yaml(data: bytes) -> tuple[Any, Write]:
    def write(values: Any) -> bytes:
        text: str = yaml.safe_dump(_sealed(values), sort_keys=False)
        return text.encode(errors="surrogatepass")

    return yaml.safe_load(data), write


def _sealed(values: Any) -> Any:
    if not isinstance(values, dict) or "sha256" not in values:
        return values
    rest = {key: item for key, item in values.items() if key not in ("schema", "sha256")}
    try:
        return {**values, "sha256": content_sha256(rest)}
    except (TypeError, ValueError, RecursionError):
        return values


def aliases() -> bytes:
    """Return a small YAML file that stands for a thousand million values."""
    lines = ["schema: 1", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines).encode()


def tensor_files(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield safetensors files that are not what `data` is, and what is wrong with each."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for announced in (0, 1, length - 1, length + 1, len(data), PETABYTE, 2**63, 2**64 - 1):
        yield f"a header of {announced} bytes", struct.pack("<Q", announced) + data[8:]
    for text in (b"", b"{}", b"[]", b"null", b"{" * 5000, b'{"a": 1}', b'{"__metadata__": {}}'):
        yield f"the header {text[:20]!r}", _packed(text) + body
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        changes = {
            "data_offsets": ([0, 0], [stop, start], [start, stop + 4], [start, PETABYTE], [-4, 0]),
            "shape": ([], [0], [1, *entry["shape"]], [*entry["shape"], 1], [2**32, 2**32]),
            "dtype": ("F64", "I32", "BF16", "U8", "X99", None),
        }
        for key, values in changes.items():
            for value in values:
                changed = {**header, name: {**entry, key: value}}
                yield f"{name}.{key} = {value}", _packed(changed) + body
        others = {key: item for key, item in header.items() if key != name}
        yield f"without {name}", _packed(others) + body
        yield f"{name} renamed", _packed({**others, f"{name}x": entry}) + body
        yield f"{name} leads out", _packed({**others, f"../../{name}": entry}) + body
        yield f"{name} twice", _packed(json.dumps(header)[:-1] + f', "{name}": 1}}') + body
        size = stop - start
        grown = {**header, "more": {**entry, "data_offsets": [len(body), len(body) + size]}}
        yield f"one more like {name}", _packed(grown) + body + bytes(size)
        for number in (float("nan"), float("inf"), -float("inf")):
            weights = np.frombuffer(body, np.float32).copy()
            weights[start // 4] = number
            yield f"{number} in {name}", data[: 8 + length] + weights.tobytes()


def _packed(header: Any) -> bytes:
    text = (
        header
        if isinstance(header, bytes)
        else header.encode()
        if isinstance(header, str)
        else None
    )
    text = json.dumps(header).encode() if text is None else text
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def are_names(data: bytes) -> bool:
    """Return whether a Parquet file holds an id and a name for each class."""
    try:
        table = pq.read_table(pa.BufferReader(data), columns=["id", "name"])
        ids = sorted(table.column("id").to_pylist())
        names = table.column("name").to_pylist()
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError):
        return False
    return ids == list(range(CLASSES)) and all(isinstance(name, str) for name in names)


def tables(data: bytes, command: str) -> Iterator[tuple[str, Make]]:
    """Yield what is wrong with Parquet files that hold no names of the classes, and their makers.

    Args:
        data: a file with columns id and name.
        command: what code would run, if any of it ran.
    """
    good = pq.read_table(pa.BufferReader(data))
    rows = good.num_rows
    ids, names = good.column("id"), good.column("name")
    columns: dict[str, dict[str, Any]] = {
        "no names": {"id": ids},
        "no ids": {"name": names},
        "other columns": {"a": ids, "b": names},
        "names that are numbers": {"id": ids, "name": ids},
        "names that are lists": {"id": ids, "name": [["a"]] * rows},
        "names that are structs": {"id": ids, "name": [{"a": 1}] * rows},
        "names that are bytes": {"id": ids, "name": [b"\xff"] * rows},
        "a name missing": {"id": ids, "name": [None, *names.to_pylist()[1:]]},
        "ids that are texts": {"id": [str(i) for i in range(rows)], "name": names},
        "ids that are fractions": {"id": np.arange(rows) + 0.5, "name": names},
        "an id missing": {"id": [None, *range(1, rows)], "name": names},
        "an id twice": {"id": [1, *range(1, rows)], "name": names},
        "negative ids": {"id": np.arange(rows) - 1, "name": names},
        "huge ids": {"id": np.arange(rows, dtype=np.uint64) + 2**63, "name": names},
    }
    for what, values in columns.items():
        yield what, partial(_parquet, values)
    yield "no rows", partial(_parquet, good.slice(0, 0))
    yield "fewer rows", partial(_parquet, good.slice(1))
    yield "rows twice", partial(_parquet, pa.concat_tables([good, good]))
    yield "millions of rows in few bytes", _many_rows
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Runs(command)),
    }
    fields = [good.schema.field("id").with_metadata(extension), good.schema.field("name")]
    hidden = good.replace_schema_metadata({b"pandas": b"{" * 500}).cast(pa.schema(fields))
    yield "a pickled type", partial(_parquet, hidden)


def _many_rows() -> bytes:
    rows = 4_000_000
    return _parquet({"id": np.zeros(rows, np.int64), "name": pa.repeat("x" * 99, rows)})


def _parquet(table: pa.Table | dict[str, Any]) -> bytes:
    file = io.BytesIO()
    whole = pa.table(table) if isinstance(table, dict) else table
    pq.write_table(whole, file, compression="zstd")
    return file.getvalue()
