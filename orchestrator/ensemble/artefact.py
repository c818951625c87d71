"""The merged ensemble on storage: one folder that needs nothing else.

    ensembles/<digest>/
      manifest.json            what it is: schema, classes, config, worlds, combiner
      world-000.safetensors …  each world's weights
      lookup.npy               every class's buckets; where they are stored
      classes.parquet          id, name; where classes have names
      README.md                for whoever finds the folder
      COMMIT                   every file's size and sha256

The digest is that of the manifest, which holds every weight file's sha256 and
says nothing of which attempts made them, or on how many threads: the same
weights give the same folder, in whatever run they were trained.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator import schema
from orchestrator.ensemble.combiners import COMBINERS
from workers.config import RuntimeConfig, WorldConfig
from workers.errors import StorageError
from workers.partition import Partition, partition_for
from workers.precision import PRECISIONS
from workers.storage import Manifest as Commit
from workers.storage import RunPaths, Storage, from_json
from workers.storage.formats import LARGEST_JSON

SCHEMA = 1
MANIFEST, CLASSES, README = "manifest.json", "classes.parquet", "README.md"
LOOKUP = "lookup.npy"
LOOKUPS = ("computed", "stored")
_DIGEST = re.compile(r"[0-9a-f]{16}")
_LINE = 1000
"""Bytes; more cannot be a name."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One world of an ensemble."""

    world: int
    steps: int
    bucket_accuracy: float | None
    """Share of validation rows whose likeliest bucket held a label; None: not measured."""
    model_sha256: str
    """Of the weights as they were trained."""

    def __post_init__(self) -> None:
        counts = all(type(n) is int and 0 <= n < 2**63 for n in (self.world, self.steps))
        share = self.bucket_accuracy
        measured = share is None or (type(share) in (int, float) and 0 <= share <= 1)
        if not (counts and measured and isinstance(self.model_sha256, str)):
            raise ValueError(f"a world: {self}")

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
    """By world, ascending; at least one."""
    has_names: bool
    weights: str = "fp32"
    """The precision that they are stored in: one of `workers.precision.PRECISIONS`."""
    lookup: str = "computed"
    """Where a class's buckets come from: `computed` from the partitions, or `stored` beside."""
    dense_width: int | None = None
    """Numbers in a vector of `data.dense` in training; None: there are none, or it is not known."""

    def __post_init__(self) -> None:
        worlds = [member.world for member in self.members]
        if not worlds or worlds != sorted(set(worlds)):
            raise ValueError(f"worlds {worlds}")
        if self.combiner not in COMBINERS:
            raise ValueError(f"combiner {self.combiner!r}")
        if self.weights not in PRECISIONS:
            raise ValueError(f"weights {self.weights!r}")
        if self.lookup not in LOOKUPS:
            raise ValueError(f"lookup {self.lookup!r}")
        width = self.dense_width
        if width is not None and (
            type(width) is not int or width < 0 or not self.config.data.dense
        ):
            raise ValueError(f"dense_width {width!r}")
        if type(self.worlds_of_run) is not int or type(self.has_names) is not bool:
            raise ValueError(f"of {self.worlds_of_run!r} worlds, names {self.has_names!r}")
        # How fast the worlds were trained, and on what, is nothing that an ensemble is.
        object.__setattr__(self, "config", replace(self.config, runtime=RuntimeConfig()))

    @property
    def files(self) -> list[str]:
        """The names of the files that make up the ensemble, the manifest apart."""
        others = {LOOKUP: self.lookup == "stored", CLASSES: self.has_names}
        return [member.file for member in self.members] + [name for name in others if others[name]]

    def partitions(self) -> list[Partition]:
        """Return the partitions of the worlds, in their order."""
        config = self.config
        return [
            partition_for(config.partition, config.data.classes, config.seed, member.world)
            for member in self.members
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "classes": self.config.data.classes,
            "buckets": self.config.partition.buckets,
            "combiner": self.combiner,
            "worlds_of_run": self.worlds_of_run,
            "has_names": self.has_names,
            # What is as it always was is not said, so that such an ensemble keeps its digest.
            **({} if self.weights == "fp32" else {"weights": self.weights}),
            **({} if self.lookup == "computed" else {"lookup": self.lookup}),
            **({} if self.dense_width is None else {"dense_width": self.dense_width}),
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
            manifest = Manifest(
                config=_config(values["config"], where),
                combiner=values["combiner"],
                worlds_of_run=values["worlds_of_run"],
                members=tuple(Member(**member) for member in values["members"]),
                has_names=values["has_names"],
                weights=values.get("weights", "fp32"),
                lookup=values.get("lookup", "computed"),
                dense_width=values.get("dense_width"),
            )
            if manifest.to_dict() != {**values, "config": manifest.config.to_dict()}:
                raise ValueError(f"classes, buckets or keys that do not fit: {[*values]}")
            return manifest
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise StorageError(
                f"{where}: expected the manifest of an ensemble, found one in which something is"
                f" missing or altered ({error!r}); merge the run again"
            ) from error

    @property
    def digest(self) -> str:
        """The name of the ensemble: 16 hexadecimal digits of the manifest's sha256."""
        text = json.dumps({"schema": SCHEMA, **self.to_dict()}, indent=1, allow_nan=False)
        return hashlib.sha256(text.encode() + b"\n").hexdigest()[:16]


@dataclass(frozen=True)
class Artefact:
    """An ensemble's folder, opened: sizes checked, weights not yet read unless `verified`."""

    storage: Storage
    folder: str
    manifest: Manifest
    commit: Commit
    verified: bool = False
    """Whether every file was read to its end and its sha256 checked."""

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
    data = storage.read_committed(folder, MANIFEST, commit, at_most=LARGEST_JSON)
    manifest = Manifest.from_dict(from_json(data, where, schema=SCHEMA), where)
    _check_files(manifest, commit, where)
    _check_digest(manifest, folder.rpartition("/")[2], where)
    return Artefact(storage, folder, manifest, commit, verified=verify == "full")


def served(run: Storage) -> str | None:
    """Return the digest of the ensemble that a run serves, or None.

    Raises:
        StorageError: the file that names it is altered.
    """
    return _current(run) if run.exists(RunPaths.current) else None


def _config(values: dict[str, Any], where: str) -> WorldConfig:
    """Return the worlds' config; raise `ValueError` for what is missing or does not fit."""
    missing = WorldConfig().to_dict().keys() - values.keys()
    built = schema.build(WorldConfig, [schema.Layer(where, values)])
    others = built.value.problems() if built.value is not None else []
    problems = [*sorted(missing), *built.problems, *others]
    if built.value is None or problems:
        raise ValueError("config: " + "; ".join(problems))
    return built.value


def _check_files(manifest: Manifest, commit: Commit, where: str) -> None:
    """Check that every file is a committed one, and the weights those that were merged."""
    wanted = {member.file: member.model_sha256 for member in manifest.members}
    if manifest.weights != "fp32":
        # Files of their own, made of those.
        wanted = {}
    for name in manifest.files:
        entry = commit.files.get(name)
        if entry is None or wanted.get(name, entry.sha256) != entry.sha256:
            found = "none" if entry is None else f"another with {entry.sha256[:16]}…"
            raise StorageError(
                f"{where}: expected the {name} that it names to be committed beside it,"
                f" found {found}; merge the run again"
            )


def _check_digest(manifest: Manifest, name: str, where: str) -> None:
    """Check the manifest against the digest in its folder's name, unless that was renamed."""
    if _DIGEST.fullmatch(name) and name != manifest.digest:
        raise StorageError(
            f"{where}: expected the manifest whose digest the folder is named by, found that of"
            f" {manifest.digest}: the file was altered; merge the run again"
        )


def _locate(uri: str) -> tuple[Storage, str]:
    """Return a storage and the ensemble's folder in it."""
    given = Storage(uri)
    if digest := served(given):
        return given, RunPaths(given).ensemble(digest)
    if given.exists(MANIFEST):
        base, mark, query = given.uri.partition("?" if "://" in given.uri else "\0")
        parent, _, name = base.rpartition("/")
        return Storage(f"{parent or '/'}{mark}{query}"), name
    if given.exists(RunPaths.identity):
        raise StorageError(
            f"{uri}: expected a merged ensemble, found a run without one; merge it first with"
            f" 'manyworlds merge {uri}'"
        )
    raise StorageError(
        f"{uri}: expected a run or an ensemble, found neither; give the folder that"
        " 'manyworlds train' was told by run="
    )


def _current(run: Storage) -> str:
    digest = run.read_bytes(RunPaths.current, at_most=_LINE).decode(errors="replace").strip()
    if not _DIGEST.fullmatch(digest):
        raise StorageError(
            f"{run.where(RunPaths.current)}: expected the name of an ensemble, 16 hexadecimal"
            f" digits, found {digest[:40]!r}; merge the run again"
        )
    return digest
