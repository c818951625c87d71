"""Worlds to one ensemble: copies their weights, writes the manifest, commits, points at it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import RunConfig
from orchestrator.ensemble.artefact import CLASSES, MANIFEST, README, SCHEMA, Manifest, Member
from orchestrator.ensemble.names import class_names
from workers.errors import RunError, StorageError
from workers.shards import read_table
from workers.storage import RunPaths, Storage, from_json, to_json

BEST_COMBINER = {"softmax": "log", "bce": "log"}
"""What `merge.combiner=auto` means for each loss: what measured best (benchmarks/results)."""


def merge(config: RunConfig, *, min_worlds: int | None = None) -> str:
    """Merge the worlds of a run that are done; return the ensemble's URI.

    Merging the same worlds again finds the ensemble there and changes nothing.

    Args:
        config: of the run; its `run` says where.
        min_worlds: how many must be done; None: what `merge.min_worlds` says, or all.

    Raises:
        RunError: if fewer worlds are done.
        StorageError: if a world's weights are cut short or altered.
    """
    storage = Storage(config.run)
    paths = RunPaths(storage)
    members = _members(config, paths)
    wanted = min_worlds or config.merge.min_worlds or config.worlds
    if len(members) < wanted:
        raise RunError(
            f"{config.run}: expected {wanted} finished worlds to merge, found {len(members)}"
            f" of {config.worlds}; carry on with 'manyworlds resume {config.run}', or merge what"
            f" is there with 'manyworlds merge {config.run} --min-worlds {max(1, len(members))}'"
        )
    chosen = config.merge.combiner
    manifest = Manifest(
        config=config.world_config(),
        combiner=BEST_COMBINER[config.model.loss] if chosen == "auto" else chosen,
        worlds_of_run=config.worlds,
        members=tuple(members),
        has_names=config.data.class_names is not None,
    )
    folder = paths.ensemble(manifest.digest)
    if storage.committed(folder) is None:
        _write(storage, paths, folder, manifest)
    storage.write_bytes(paths.current, manifest.digest.encode())
    return storage.where(folder)


def _members(config: RunConfig, paths: RunPaths) -> list[Member]:
    members = []
    for world in range(config.worlds):
        found = paths.finished(world)
        if found is None:
            continue
        attempt, commit = found
        folder = paths.final(world, attempt)
        data = paths.storage.read_committed(folder, "receipt.json", commit)
        receipt = from_json(data, paths.storage.where(f"{folder}/receipt.json"))
        members.append(
            Member(
                world=world,
                attempt=attempt,
                steps=receipt["steps"],
                bucket_accuracy=receipt["bucket_accuracy"],
                model_sha256=receipt["model_sha256"],
            )
        )
    return members


def _write(storage: Storage, paths: RunPaths, folder: str, manifest: Manifest) -> None:
    entries = {}
    for member in manifest.members:
        source = f"{paths.final(member.world, member.attempt)}/model.safetensors"
        entry = storage.copy_from(storage, source, f"{folder}/{member.file}")
        if entry.sha256 != member.model_sha256:
            raise StorageError(
                f"{storage.where(source)}: expected sha256 {member.model_sha256[:16]}…, found"
                f" {entry.sha256[:16]}…; remove the attempt's folder and resume world"
                f" {member.world}"
            )
        entries[member.file] = entry
    if manifest.has_names:
        with _names_file(manifest) as path:
            entries[CLASSES] = storage.write_file(f"{folder}/{CLASSES}", path.read_bytes())
    for name, data in (
        (MANIFEST, to_json(manifest.to_dict(), schema=SCHEMA)),
        (README, _readme(manifest).encode()),
    ):
        entries[name] = storage.write_file(f"{folder}/{name}", data)
    storage.seal(folder, entries)


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
    return f"""# A MACH ensemble

{len(manifest.members)} of {manifest.worlds_of_run} worlds; {data.classes:,} classes hashed into
{manifest.config.partition.buckets:,} buckets by each; hidden layers {list(model.hidden)}, loss
{model.loss}, combiner {manifest.combiner}. Input columns: {", ".join(data.columns(labels=False))}.

```python
from orchestrator import Ensemble

Ensemble.load("this folder").predict(["a query"], k=10)
```
"""
