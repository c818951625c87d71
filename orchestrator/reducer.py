"""Worlds to one ensemble: copies their weights, writes the manifest, commits, points at it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import RunConfig
from orchestrator.ensemble.artefact import (
    CLASSES,
    LOOKUP,
    MANIFEST,
    README,
    SCHEMA,
    Manifest,
    Member,
)
from orchestrator.ensemble.lookup import lookup_file
from orchestrator.ensemble.names import class_names
from orchestrator.run import Run
from orchestrator.words import listed
from workers.errors import ConfigError, RunError, StorageError
from workers.precision import narrowed
from workers.shards import dense_width, read_table
from workers.storage import FileEntry, RunPaths, Storage, from_json, to_json
from workers.storage import Manifest as Commit
from workers.storage.formats import LARGEST_JSON
from workers.tensors import read_tensors, tensor_file
from workers.threads import Pool

BEST_COMBINER = {"softmax": "log", "bce": "log"}
"""What `merge.combiner=auto` means for each loss: what measured best (benchmarks/results)."""
_MODEL = "model.safetensors"


def merge(config: RunConfig, *, min_worlds: int | None = None) -> str:
    """Merge the worlds of a run that are done; return the ensemble's URI.

    Merging the same worlds again finds the ensemble there and changes nothing.

    Args:
        config: of the run; its `run` says where.
        min_worlds: how many must be done; None: what `merge.min_worlds` says, or all.

    Raises:
        ConfigError: if `min_worlds` is below 1.
        DataError: if the class names do not belong to the classes.
        RunError: if fewer worlds are done.
        StorageError: if a world's weights are cut short or altered.
    """
    if min_worlds is not None and min_worlds < 1:
        raise ConfigError(f"min_worlds: expected at least 1, found {min_worlds}")
    run = Run.open(config.run)
    storage, paths = run.storage, run.paths
    sources = _sources(config, run)
    wanted = min_worlds or config.merge.min_worlds or config.worlds
    if len(sources) < wanted:
        raise _too_few(config, wanted, len(sources))
    chosen = config.merge.combiner
    manifest = Manifest(
        config=config.world_config(),
        combiner=BEST_COMBINER[config.model.loss] if chosen == "auto" else chosen,
        worlds_of_run=config.worlds,
        members=tuple(source.member for source in sources),
        has_names=config.data.class_names is not None,
        weights=config.merge.weights,
        lookup=config.merge.lookup,
        dense_width=_dense_width(config, run),
    )
    folder = paths.ensemble(manifest.digest)
    if storage.committed(folder) is None:
        _write(storage, folder, manifest, sources)
    storage.write_bytes(paths.current, manifest.digest.encode())
    return storage.where(folder)


def _dense_width(config: RunConfig, run: Run) -> int | None:
    kept = run.dataset().get("fingerprint")
    if config.data.dense is None or kept is None:
        return None
    return dense_width(kept, config.data.dense, run.storage.where(run.paths.dataset))


class _Source(NamedTuple):
    folder: str
    """Of the attempt's committed weights and receipt."""
    member: Member


def _sources(config: RunConfig, run: Run) -> list[_Source]:
    """Return what there is to merge, by world."""
    sources = []
    for world in range(config.worlds):
        if found := run.acceptable(world):
            attempt, commit = found
            folder = run.paths.final(world, attempt)
            sources.append(_source(config, run.storage, folder, world, commit))
    return sources


def _source(
    config: RunConfig, storage: Storage, folder: str, world: int, commit: Commit
) -> _Source:
    where = storage.where(f"{folder}/receipt.json")
    data = storage.read_committed(folder, "receipt.json", commit, at_most=LARGEST_JSON)
    receipt = from_json(data, where)
    try:
        member = Member(
            world=world,
            steps=receipt["steps"],
            bucket_accuracy=receipt["bucket_accuracy"],
            model_sha256=receipt["model_sha256"],
        )
    except (KeyError, ValueError) as error:
        raise StorageError(
            f"{where}: expected the receipt of a world, found one in which something is missing"
            f" or altered ({error!r}); remove the attempt's folder and resume world {world}"
        ) from error
    settings = config.world_config().digest()
    # Receipts of older versions say nothing of the settings.
    told = receipt.get("world"), receipt.get("identity", settings)
    if told != (world, settings):
        raise StorageError(
            f"{where}: expected the receipt of world {world} and of the settings in"
            f" {storage.where(RunPaths.identity)}, found world {told[0]!r:.20}"
            f" and settings {told[1]!r:.18}…; restore what was altered, or remove the attempt's"
            f" folder and resume world {world}"
        )
    return _Source(folder, member)


def _too_few(config: RunConfig, wanted: int, found: int) -> RunError:
    run = config.run
    part = f", or merge what is there with 'manyworlds merge {run} --min-worlds {found}'"
    return RunError(
        f"{run}: expected {wanted} finished worlds to merge, found {found} of {config.worlds};"
        f" carry on with 'manyworlds resume {run}'{part if found else ''}"
    )


def _write(storage: Storage, folder: str, manifest: Manifest, sources: Sequence[_Source]) -> None:
    entries = {}
    for source in sources:
        target = f"{folder}/{source.member.file}"
        entries[source.member.file] = _write_weights(storage, source, target, manifest.weights)
    if manifest.lookup == "stored":
        with Pool(0) as pool:
            write = lookup_file(manifest.partitions(), pool)
            entries[LOOKUP] = storage.write_file(f"{folder}/{LOOKUP}", write)
    if manifest.has_names:
        with _names_file(manifest) as path:
            entries[CLASSES] = storage.write_file(f"{folder}/{CLASSES}", path.read_bytes())
    for name, data in (
        (MANIFEST, to_json(manifest.to_dict(), schema=SCHEMA)),
        (README, _readme(manifest).encode()),
    ):
        entries[name] = storage.write_file(f"{folder}/{name}", data)
    storage.seal(folder, entries)
    # Until then it was uncommitted, and `clean` may have taken it for what a dead merge left.
    storage.manifest(folder)


def _write_weights(storage: Storage, source: _Source, target: str, precision: str) -> FileEntry:
    """Copy a world's weights, or write them in another precision."""
    path = f"{source.folder}/{_MODEL}"
    if precision == "fp32":
        found = entry = storage.copy_from(storage, path, target)
    else:
        found = storage.verify(source.folder, [_MODEL]).files[_MODEL]
        weights = read_tensors(storage.local(path), storage.where(path))
        entry = storage.write_file(target, tensor_file(narrowed(weights, precision)))
    wanted = source.member.model_sha256
    if found.sha256 != wanted:
        raise StorageError(
            f"{storage.where(path)}: expected sha256 {wanted[:16]}…, found"
            f" {found.sha256[:16]}…; remove the attempt's folder and resume world"
            f" {source.member.world}"
        )
    return entry


@contextmanager
def _names_file(manifest: Manifest) -> Iterator[Path]:
    uri, classes = manifest.config.data.class_names, manifest.config.data.classes
    assert uri is not None
    names = class_names(read_table(uri, ["id", "name"]), classes, uri)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, CLASSES)
        ids = pa.array(range(classes), pa.int64())
        pq.write_table(pa.table({"id": ids, "name": names.names}), path)
        yield path


def _readme(manifest: Manifest) -> str:
    data, model = manifest.config.data, manifest.config.model
    worlds = [member.world for member in manifest.members]
    return f"""# A MACH ensemble

Worlds {listed(worlds)} of {manifest.worlds_of_run}; {data.classes:,} classes hashed into
{manifest.config.partition.buckets:,} buckets by each; hidden layers {list(model.hidden)}, loss
{model.loss}, combiner {manifest.combiner}. Input columns: {", ".join(data.columns(labels=False))}.

```python
from orchestrator import Ensemble

Ensemble.load("this folder").predict(["a query"], k=10)
```
"""
