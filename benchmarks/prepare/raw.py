"""The rows of a benchmark set written as raw files, in each format that `prepare` reads.

- CSV: class names in one text, with tabs between them; feature ids and values likewise, with
  spaces.
- JSON lines: class names and features in lists.
- XMC: class ids and feature ids alone. Text becomes the n-grams that a world would make of it, by
  hashes of 59 bits, with the value that a world would give them, 1 + ln(count): what the model sees
  is the same, folded by other hashes.
- Parquet: as it is.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.datasets import BenchmarkSet
from orchestrator.prepare import PrepareConfig
from workers.config import FeaturesConfig
from workers.features import text_ngrams

BETWEEN_NAMES = "\t"
_SHIFT = np.uint64(5)
"""Bits that hashes lose, so that they are whole numbers of the format."""


def write_raw(chosen: BenchmarkSet, table: pa.Table, kind: str, path: Path) -> None:
    """Write rows of a set, whose labels are ids, as a file of one format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _WRITERS[kind](path, chosen, table)


def config_of(chosen: BenchmarkSet, kind: str, source: Path, **settings: Any) -> PrepareConfig:
    """Return what `prepare` is told of such a file."""
    if kind == "xmc":
        return PrepareConfig(source=str(source), format="xmc", **settings)
    return PrepareConfig(
        source=str(source),
        text=chosen.text,
        indices=chosen.indices,
        values=chosen.values,
        labels=chosen.labels,
        label_separator=BETWEEN_NAMES if kind == "csv" else None,
        **settings,
    )


def _write_parquet(path: Path, chosen: BenchmarkSet, table: pa.Table) -> None:
    pq.write_table(_named(chosen, table), path)


def _write_jsonl(path: Path, chosen: BenchmarkSet, table: pa.Table) -> None:
    with path.open("w", encoding="utf-8") as file:
        rows = _named(chosen, table).to_pylist()
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_csv(path: Path, chosen: BenchmarkSet, table: pa.Table) -> None:
    named = _named(chosen, table)
    joined = {name: " " for name in (chosen.indices, chosen.values) if name}
    joined[chosen.labels] = BETWEEN_NAMES
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(named.column_names)
        for row in named.to_pylist():
            writer.writerow(
                joined[name].join(map(str, value)) if name in joined else value
                for name, value in row.items()
            )


def _write_xmc(path: Path, chosen: BenchmarkSet, table: pa.Table) -> None:
    features = ngrams(table[chosen.text[0]]) if chosen.text else _features(chosen, table)
    with path.open("w", encoding="ascii") as file:
        file.write(f"{table.num_rows} 0 {chosen.classes}\n")
        for labels, found in zip(table[chosen.labels].to_pylist(), features, strict=True):
            pairs = (f"{number}:{value:.9g}" for number, value in found)
            file.write(f"{','.join(map(str, labels))} {' '.join(pairs)}\n")


def ngrams(texts: pa.ChunkedArray) -> list[list[tuple[int, float]]]:
    """Return the n-grams of each text by hash, and their values; see `workers.features.fold`."""
    config = FeaturesConfig()
    offsets, hashes = text_ngrams(texts, words=config.word_ngrams, chars=config.char_ngrams)
    rows = np.split(hashes >> _SHIFT, offsets[1:-1])
    counted = (np.unique(row, return_counts=True) for row in rows)
    return [
        list(zip(ids.tolist(), (1 + np.log(counts)).astype(np.float32).tolist(), strict=True))
        for ids, counts in counted
    ]


def _features(chosen: BenchmarkSet, table: pa.Table) -> list[list[tuple[int, float]]]:
    columns = (table[name].to_pylist() for name in (chosen.indices, chosen.values))
    return [list(zip(*row, strict=True)) for row in zip(*columns, strict=True)]


def _named(chosen: BenchmarkSet, table: pa.Table) -> pa.Table:
    """Return the rows' inputs, and the names of their classes in the place of ids."""
    inputs = [name for name in (*chosen.text, chosen.indices, chosen.values) if name]
    lists = table[chosen.labels].combine_chunks()
    if chosen.class_names:
        known = pq.read_table(chosen.class_names).sort_by("id")["name"].combine_chunks()
        names = known.take(lists.flatten())
    else:
        names = lists.flatten().cast(pa.string())
    assert not pc.any(pc.match_substring(names, BETWEEN_NAMES)).as_py()
    named = pa.ListArray.from_arrays(lists.offsets, names)
    return table.select(inputs).append_column(chosen.labels, named)


_WRITERS: dict[str, Callable[[Path, BenchmarkSet, pa.Table], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "xmc": _write_xmc,
    "parquet": _write_parquet,
}
KINDS = tuple(_WRITERS)
