"""The data set: a sentence of documentation -> the object that it documents, as Parquet."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from examples.api_search import extract
from examples.api_search.names import words
from examples.api_search.sentences import normalised, sentences

SCHEMA = pa.schema([("text", pa.string()), ("labels", pa.list_(pa.int64()))])
NAMES_SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])
SHARED_BY = 5
HELD_OUT_FROM = 3

Row = tuple[str, int]
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What `build` wrote: numbers of classes, rows and shards, and how long it took."""

    classes: int
    train_rows: int
    test_rows: int
    train_shards: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Split:
    """Names of the classes in the order of their ids, and the rows (text, id) of both parts."""

    names: list[str]
    train: list[Row]
    test: list[Row]


def build(
    folder: str | Path,
    *,
    progress: Progress = lambda line: None,
    sources: Iterable[extract.Source] | None = None,
    compiled: Iterable[str] | None = None,
    seed: int = 0,
    rows_per_shard: int = 50_000,
    rows_per_group: int = 10_000,
) -> Summary:
    """Reads installed packages and writes the data set; equal versions give equal bytes.

    Writes `train/part-NNN.parquet` and `test/part-000.parquet` (columns `text`:
    string, `labels`: list<int64> of one class id), `labels.parquet` (`id`,
    `name`) and, last, `stats.json`. Files of an earlier build are replaced.

    Args:
        folder: Where to write; made if missing.
        progress: Gets a line about each step.
        sources: Packages to read; those installed unless given.
        compiled: Modules to import for documentation that is in no file.
        seed: Decides the held-out sentences and the order of the rows.
        rows_per_shard: Rows in a training file.
        rows_per_group: Rows in a row group.
    """
    start = time.perf_counter()
    if sources is None:
        sources = extract.installed()
        compiled = extract.COMPILED if compiled is None else compiled
    texts = extract.read(sources, compiled=compiled or (), progress=progress)
    split = split_rows(sentences_by_name(texts, progress=progress), seed=seed)
    shards = _write(Path(folder), split, seed, rows_per_shard, rows_per_group)
    summary = Summary(
        classes=len(split.names),
        train_rows=len(split.train),
        test_rows=len(split.test),
        train_shards=shards,
        seconds=time.perf_counter() - start,
    )
    progress(
        f"{summary.classes:,} classes, {summary.train_rows:,} rows to train on, "
        f"{summary.test_rows:,} held out, in {summary.seconds:.0f} s"
    )
    return summary


def sentences_by_name(
    texts: extract.Texts, *, progress: Progress = lambda line: None
) -> dict[str, list[str]]:
    """Sentences of every object, without boilerplate and without aliases.

    A sentence that more than 5 objects share says nothing about any of them. Of
    objects that are left with exactly the same sentences, the one with the
    shortest name stays. Names come in sorted order.
    """
    found: dict[str, list[str]] = {}
    for number, name in enumerate(sorted(texts)):
        found[name] = _unique(sentence for text in texts[name] for sentence in sentences(text))
        if number % 10_000 == 9_999:
            progress(f"sentences of {number + 1:,} of {len(texts):,} objects")
    shared = _objects_of(found)
    kept: dict[tuple[str, ...], str] = {}
    for name in sorted(found, key=lambda name: (len(name), name)):
        found[name] = [s for s in found[name] if shared[normalised(s)] <= SHARED_BY]
        if found[name] and words(name):
            kept.setdefault(tuple(found[name]), name)
    return {name: found[name] for name in sorted(kept.values())}


def split_rows(found: dict[str, list[str]], *, seed: int = 0) -> Split:
    """Rows to train on and rows to ask, one a sentence; ids are dense in the order of the names.

    Of every object with three or more sentences one is held out, chosen by a
    hash of the name among those that no other row equals; an object without
    such a sentence gives none. Every object also has its name, in words, as a
    training row.
    """
    names = sorted(found)
    counts = _objects_of(found)
    counts.update(words(name) for name in names)
    train: list[Row] = []
    test: list[Row] = []
    for label, name in enumerate(names):
        held = _held_out(name, found[name], counts, seed)
        train.append((words(name), label))
        for sentence in found[name]:
            (test if sentence == held else train).append((sentence, label))
    return Split(names, train, test)


def _held_out(name: str, own: list[str], counts: Counter[str], seed: int) -> str | None:
    free = [sentence for sentence in own if counts[normalised(sentence)] == 1]
    if len(own) < HELD_OUT_FROM or not free:
        return None
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return free[int.from_bytes(digest, "big") % len(free)]


def _unique(found: Iterable[str]) -> list[str]:
    by_form: dict[str, str] = {}
    for sentence in found:
        by_form.setdefault(normalised(sentence), sentence)
    return list(by_form.values())


def _objects_of(found: dict[str, list[str]]) -> Counter[str]:
    return Counter(normalised(sentence) for own in found.values() for sentence in own)


def _write(folder: Path, split: Split, seed: int, per_shard: int, per_group: int) -> int:
    stats = folder / "stats.json"
    stats.unlink(missing_ok=True)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(split.train))
    shuffled = [split.train[row] for row in order.tolist()]
    pieces = [shuffled[at : at + per_shard] for at in range(0, len(shuffled), per_shard)]
    for number, piece in enumerate(pieces):
        _write_table(folder / "train" / f"part-{number:03d}.parquet", _rows(piece), per_group)
    for path in sorted((folder / "train").glob("part-*.parquet"))[len(pieces) :]:
        path.unlink()
    _write_table(folder / "test" / "part-000.parquet", _rows(split.test), per_group)
    ids = pa.array(range(len(split.names)), pa.int64())
    names = pa.table([ids, pa.array(split.names, pa.string())], schema=NAMES_SCHEMA)
    _write_table(folder / "labels.parquet", names, per_group)
    _replace(stats, json.dumps(_stats(split, seed), indent=2, sort_keys=True).encode() + b"\n")
    return len(pieces)


def _rows(rows: list[Row]) -> pa.Table:
    texts = pa.array([text for text, _ in rows], pa.string())
    labels = pa.array([[label] for _, label in rows], pa.list_(pa.int64()))
    return pa.table([texts, labels], schema=SCHEMA)


def _write_table(path: Path, table: pa.Table, per_group: int) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=per_group, compression="zstd", write_page_checksum=True
    )
    _replace(path, sink.getvalue().to_pybytes())


def _replace(path: Path, data: bytes) -> None:
    """Puts a whole file in place: a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _stats(split: Split, seed: int) -> dict[str, object]:
    packages = Counter(name.partition(".")[0] for name in split.names)
    third_party = {name: packages[name] for name in extract.PACKAGES if packages[name]}
    rest = len(split.names) - sum(third_party.values())
    return {
        "classes": len(split.names),
        "train_rows": len(split.train),
        "test_rows": len(split.test),
        "classes_by_package": {**third_party, "standard library": rest},
        "seed": seed,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in extract.PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
