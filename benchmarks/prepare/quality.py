"""Ensembles of what `prepare` makes of raw files, beside those of the Parquet files themselves.

Names get ids in another order, equal rows become one with a weight, and rows come in another order;
the worlds are others then, so every system is trained with several seeds. All are measured on
the same test rows: those labels that no training row has are left out, as `classes` does it.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.accuracy import JOBS, Job, settings, trained
from benchmarks.datasets import BenchmarkSet, find_sets
from benchmarks.kept import Found, Kept
from benchmarks.prepare.raw import KINDS, config_of, write_raw
from benchmarks.writing import QUICK, ROOT, markdown
from orchestrator.prepare import prepare

SEEDS = {"bibtex": 1, "tldr": 1} if QUICK else {"bibtex": 8, "tldr": 3, "debian_depends": 3}
"""How many of each set: more where the test rows are few."""
SETS = tuple(SEEDS)
WORLDS = 3
"""So many that classes which share their buckets in all of them are rare: ids decide between those,
and ids are what formats differ in."""
ORIGINAL = "the set itself"
FOLDER = ROOT / ".bench" / ("prepare-quick" if QUICK else "prepare")
_BIBTEX = Job(
    buckets=40, settings={"training.epochs": 30, "training.batch_size": 128, "model.loss": "bce"}
)
"""A quarter of its classes, and enough steps for so few rows."""
METRICS = ("P@1", "R@10")
_ROWS = 1_000 if QUICK else 1 << 40
"""Of each set, at most."""


def measure(names: Sequence[str]) -> None:
    """Measure what is missing of some sets."""
    found, left_out = find_sets(names)
    for line in left_out:
        print(line)
    for chosen in found:
        kept, data = Kept("prepare", chosen.name), FOLDER / chosen.name
        # What was cut short is made anew.
        shutil.rmtree(data, ignore_errors=True)
        for seed in range(SEEDS[chosen.name]):
            for kind in (ORIGINAL, *KINDS):
                kept.measure(f"{kind}, {seed}", partial(_measured, kept, chosen, kind, seed, data))
        shutil.rmtree(data, ignore_errors=True)


def _measured(kept: Kept, chosen: BenchmarkSet, kind: str, seed: int, data: Path) -> Found:
    _write(chosen, data / "original")
    original = replace(chosen, train=data / "original/train", test=data / "original/test")
    made = original if kind == ORIGINAL else _prepared(original, kind, data / kind)
    digest = _digest(made)
    for name, unit in kept.units.items():
        if name.endswith(f", {seed}") and unit["shards"] == digest:
            return {**unit, "trained": name}
    job = JOBS.get(chosen.name, _BIBTEX)
    more = {"seed": seed, **({} if kind == ORIGINAL else {"data.weight": "weight"})}
    more |= {"training.epochs": 1} if QUICK else {}
    job = replace(job, settings={**job.settings, **more})
    run = data / "run"
    shutil.rmtree(run, ignore_errors=True)
    buckets = _BIBTEX.buckets if QUICK else job.buckets
    config = settings(made, job, "prepare", worlds=WORLDS, buckets=buckets)
    found = trained(made, replace(config, run=str(run)), ("log",))
    metrics = found["metrics"]["log"][str(WORLDS)]
    return {
        "rows": _rows(made.train),
        "classes": made.classes,
        "test rows": found["rows"],
        **{metric: metrics[metric] for metric in METRICS},
        "shards": digest,
        "seconds a world": found["seconds_a_world"],
        "settings": found["settings"],
    }


def _write(chosen: BenchmarkSet, folder: Path) -> None:
    """Write the rows of a set, those of the test with the labels that training rows have."""
    if (folder / "test").exists():
        return
    train = _table(chosen, chosen.train)
    labels = train[chosen.labels].combine_chunks()
    known = np.unique(labels.flatten().to_numpy())
    test = _table(chosen, chosen.test)
    lists = test[chosen.labels].combine_chunks()
    kept = np.isin(lists.flatten().to_numpy(), known)
    owners = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    counts = np.bincount(owners[kept], minlength=len(lists))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    some = pa.ListArray.from_arrays(offsets, lists.flatten().filter(pa.array(kept)))
    place = test.schema.get_field_index(chosen.labels)
    test = test.set_column(place, chosen.labels, some).filter(pa.array(counts > 0))
    for name, table in (("train", train), ("test", test)):
        (folder / name).mkdir(parents=True)
        pq.write_table(table, folder / name / "rows.parquet", row_group_size=1 << 16)


def _table(chosen: BenchmarkSet, folder: Path) -> pa.Table:
    columns = [*chosen.text, chosen.indices, chosen.values, chosen.labels]
    shards = sorted(folder.glob("*.parquet"))
    tables = [pq.read_table(shard, columns=[name for name in columns if name]) for shard in shards]
    return pa.concat_tables(tables).slice(0, _ROWS)


def _prepared(original: BenchmarkSet, kind: str, folder: Path) -> BenchmarkSet:
    """Return the set as `prepare` makes it of raw files, classes by its own ids."""
    ending = "txt" if kind == "xmc" else kind
    for name, rows in (("train", original.train), ("test", original.test)):
        path = folder / f"{name}.{ending}"
        if not path.exists():
            write_raw(original, pq.read_table(rows / "rows.parquet"), kind, path)
    train = config_of(
        original, kind, folder / f"train.{ending}", out=str(folder / "train"), test=0.0
    )
    summary = prepare(train, address="none")
    # Test rows stay as many as they are.
    test = config_of(
        original,
        kind,
        folder / f"test.{ending}",
        out=str(folder / "test"),
        test=0.0,
        classes=str(folder / "train/classes.parquet"),
        repeats="keep",
    )
    prepare(test, address="none")
    made = replace(
        original,
        train=folder / "train/train",
        test=folder / "test/train",
        classes=summary.classes,
        labels="labels",
    )
    return replace(made, text=(), indices="indices", values="values") if kind == "xmc" else made


def _digest(made: BenchmarkSet) -> str:
    """Return a hash of the bytes of all shards."""
    found = hashlib.sha256()
    for shard in (*sorted(made.train.glob("*.parquet")), *sorted(made.test.glob("*.parquet"))):
        found.update(shard.read_bytes())
    return found.hexdigest()[:16]


def _rows(folder: Path) -> int:
    return sum(pq.read_metadata(shard).num_rows for shard in folder.glob("*.parquet"))


def quality_table() -> list[str]:
    """Return the lines about quality; none before anything is measured."""
    rows = [row for name in SETS for row in _lines(name)]
    if not rows:
        return []
    return [
        "## Quality",
        "",
        f"Ensembles of {WORLDS} worlds, combiner `log`, per cent of the test rows: mean and"
        f" standard deviation over seeds. `{ORIGINAL}` is trained on the set's own"
        " Parquet files; the others on what `prepare` makes of the same rows as raw files."
        " XMC has no text: there it holds the hashed n-grams, with the values that a world gives"
        " them. `prepare` counts the classes that training rows have, a set may have more. The last"
        " column is how far the means are from the set's own, in standard errors of the difference,"
        " of P@1 or R@10, whichever is farther. Shards that are the same to the last byte are"
        " trained on once.",
        "",
        *markdown(("set", "from", "rows", "K", "test rows", "seeds", *METRICS, "apart"), rows),
        "",
    ]


def _lines(name: str) -> Iterator[tuple[str, ...]]:
    units = Kept("prepare", name).units
    by_kind = {
        kind: [
            units[f"{kind}, {seed}"] for seed in range(SEEDS[name]) if f"{kind}, {seed}" in units
        ]
        for kind in (ORIGINAL, *KINDS)
    }
    for kind, found in by_kind.items():
        if found:
            cells = [f"{found[0][count]:,}" for count in ("rows", "classes", "test rows")]
            cells.append(str(len(found)))
            told = (_told([each[metric] for each in found]) for metric in METRICS)
            yield name, kind, *cells, *told, _apart(found, by_kind[ORIGINAL])


def _told(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


def _apart(found: list[Found], own: list[Found]) -> str:
    if found is own or min(len(found), len(own)) < 2:
        return "–"
    ratios = []
    for metric in METRICS:
        groups = [[each[metric] for each in group] for group in (found, own)]
        error = sum(statistics.variance(group) / len(group) for group in groups) ** 0.5
        apart = statistics.mean(groups[0]) - statistics.mean(groups[1])
        ratios.append(apart / error if error else 0.0)
    return f"{max(ratios, key=abs):+.1f}"
