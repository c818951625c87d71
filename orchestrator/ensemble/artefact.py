"""The merged ensemble on storage: one folder that needs nothing else.

    ensembles/<digest>/
      manifest.json            what it is: schema, classes, config, worlds, combiner
      world-000.safetensors …  each world's weights
      classes.parquet          id, name; where classes have names
      README.md                for whoever finds the folder
      COMMIT                   every file's size and sha256

The digest is that of the manifest, which holds every weight file's sha256: the
same worlds merged again give the same folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from workers.config import WorldConfig
from workers.errors import StorageError
from workers.storage import Manifest as Commit
from workers.storage import RunPaths, Storage, to_json

SCHEMA = 1
MANIFEST, CLASSES, README = "manifest.json", "classes.parquet", "README.md"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One world of an ensemble."""

    world: int
    attempt: str
    steps: int
    bucket_accuracy: float | None
    model_sha256: str

    @property
    def file(self) -> str:
        """The name of its weights in the ensemble's folder."""
        return f"world-{self.world:03d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an ensemble is."""

    config: WorldConfig
    """Of its worlds."""
    combiner: str
    """Used where a query asks for no other."""
    worlds_of_run: int
    """R of the run; `members` may be fewer."""
    members: tuple[Member, ...]
    """By world, ascending."""
    has_names: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "classes": self.config.data.classes,
            "buckets": self.config.partition.buckets,
            "combiner": self.combiner,
            "worlds_of_run": self.worlds_of_run,
            "has_names": self.has_names,
            "members": [asdict(member) for member in self.members],
            "config": self.config.to_dict(),
        }

    @staticmethod
    def from_dict(values: dict[str, Any], where: str) -> Manifest:
        """Return the manifest that `to_dict` wrote.

        Raises:
            StorageError: if something in it is missing or of another type.
        """
        try:
            return Manifest(
                config=WorldConfig.from_dict(values["config"]).validate(),
                combiner=str(values["combiner"]),
                worlds_of_run=int(values["worlds_of_run"]),
                members=tuple(Member(**member) for member in values["members"]),
                has_names=bool(values["has_names"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(
                f"{where}: expected the manifest of an ensemble, found one in which something is"
                f" missing or altered ({error!r}); merge the run again"
            ) from error

    @property
    def digest(self) -> str:
        """The name of the ensemble: 16 hexadecimal digits of the manifest's sha256."""
        return hashlib.sha256(to_json(self.to_dict(), schema=SCHEMA)).hexdigest()[:16]


@dataclass(frozen=True)
class Artefact:
    """An ensemble's folder, opened: sizes checked, weights not yet read."""

    storage: Storage
    folder: str
    manifest: Manifest
    commit: Commit

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.storage.where(self.folder)


def open_artefact(uri: str, *, verify: str = "size") -> Artefact:
    """Open an ensemble.

    Args:
        uri: of an ensemble's folder, or of a run, which names its current ensemble.
        verify: `size` checks that every file is there and whole in length; `full`
            reads all and checks every sha256.

    Raises:
        StorageError: if there is no ensemble, or it is cut short or altered.
        SchemaError: if another version wrote it.
    """
    storage, folder = _locate(uri)
    commit = storage.verify(folder) if verify == "full" else storage.manifest(folder)
    where = storage.where(f"{folder}/{MANIFEST}")
    storage.read_committed(folder, MANIFEST, commit)
    values = storage.read_json(f"{folder}/{MANIFEST}", schema=SCHEMA)
    return Artefact(storage, folder, Manifest.from_dict(values, where), commit)


def _locate(uri: str) -> tuple[Storage, str]:
    run = Storage(uri)
    if run.exists(RunPaths.current):
        digest = run.read_bytes(RunPaths.current).decode().strip()
        return run, RunPaths(run).ensemble(digest)
    if run.exists(MANIFEST):
        parent, _, name = uri.rstrip("/").rpartition("/")
        return Storage(parent or "."), name
    if run.exists(RunPaths.identity):
        raise StorageError(
            f"{uri}: expected a merged ensemble, found a run without one; merge it first with"
            f" 'manyworlds merge {uri}'"
        )
    raise StorageError(
        f"{uri}: expected a run or an ensemble, found neither; give the folder that"
        " 'manyworlds train' was told by run="
    )
