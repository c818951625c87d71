"""What a run is and how far it is: the one source of truth, read from storage.

A run has an identity, which never changes (data, partition, features, model,
optimiser, training, seed), and settings, which may (number of worlds, runtime,
cluster, budgets, merging). The driver alone writes the state of its worlds;
anybody who can read the storage can read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import yaml

from orchestrator.config import MOST_WORLDS
from orchestrator.state import WorldState
from workers.config import identity_digest
from workers.errors import DataError, RunError, SchemaError, StorageError, StorageUnreachable
from workers.shards import merge_content
from workers.storage import COMMIT, Manifest, RunPaths, Storage, from_json
from workers.storage.formats import check_content, content_sha256

T = TypeVar("T")

SCHEMA = 1
"""Of identity, settings, dataset fingerprint and the states of worlds."""
_CONTENT = "content.json"
"""What an attempt read, beside its weights."""
_READERS = 16
"""Worlds that are read side by side from a server."""
_LARGEST_YAML = 1 << 20
"""Bytes; a megabyte takes seconds to parse."""


class Run:
    """A run on storage; made by `Run.create` and `Run.open`.

    Attributes:
        uri: the run's folder or URI.
        storage: that folder.
        paths: the names of the files in it.
        identity: what makes the run this run, as nested plain values.
        settings: what may change, the newest version.
    """

    def __init__(
        self, storage: Storage, identity: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        self.uri = storage.uri
        self.storage = storage
        self.paths = RunPaths(storage)
        self.identity = dict(identity)
        self.settings = dict(settings)

    @staticmethod
    def create(uri: str, identity: Mapping[str, Any], settings: Mapping[str, Any]) -> Run:
        """Make a run, or go on with the one that is there if its identity is the same.

        Args:
            uri: the run's folder or URI.
            identity: nested plain values; written once.
            settings: nested plain values; written as a new version if they differ.

        Raises:
            RunError: there is a run of another identity, whose keys that differ are named, or one
                of more worlds.
        """
        storage = Storage(uri)
        wanted = _plain(identity)
        if storage.exists(RunPaths.identity):
            _check_same(storage, _read_yaml(storage, RunPaths.identity), wanted)
        else:
            storage.write_bytes(RunPaths.identity, _to_yaml(wanted))
        run = Run(storage, wanted, _newest_settings(storage))
        run.change_settings(settings)
        return run

    @staticmethod
    def open(uri: str) -> Run:
        """Return the run at `uri`.

        Raises:
            RunError: there is none.
            SchemaError: another version wrote it.
        """
        storage = Storage(uri)
        if not storage.exists(RunPaths.identity):
            raise RunError(
                f"{storage.uri}: expected a run, found no {RunPaths.identity} there;"
                " look at the path, or begin a run with: manyworlds train run=..."
            )
        return Run(storage, _read_yaml(storage, RunPaths.identity), _newest_settings(storage))

    @property
    def digest(self) -> str:
        """The identity's sha256, over canonical JSON."""
        return identity_digest(_plain(self.identity))

    @property
    def worlds(self) -> int:
        """Number of worlds R.

        Raises:
            StorageError: the settings name none.
        """
        worlds = self.settings.get("worlds")
        if type(worlds) is not int or not 1 <= worlds <= MOST_WORLDS:
            where = self.storage.where(self.paths.settings)
            raise _altered(where, f"worlds = {worlds!r:.40}")
        return worlds

    def chosen(self, only: Iterable[int] | None) -> list[int]:
        """Return the worlds of `only`, sorted; None: all.

        Raises:
            RunError: the run does not have one of them.
        """
        if only is None:
            return list(range(self.worlds))
        chosen = sorted(set(only))
        if wrong := [world for world in chosen if not 0 <= world < self.worlds]:
            raise RunError(
                f"expected worlds from 0 to {self.worlds - 1}, found {', '.join(map(str, wrong))};"
                " raise worlds=... to have more"
            )
        return chosen

    def change_settings(self, settings: Mapping[str, Any]) -> None:
        """Write a new version of the settings, if they differ from the newest.

        Raises:
            RunError: they have fewer worlds.
        """
        wanted = _plain(settings)
        kept, asked = self.settings.get("worlds"), wanted.get("worlds")
        if type(kept) is int and type(asked) is int and asked < kept:
            raise RunError(
                f"{self.uri}: expected at least the {kept} worlds that the run has, found {asked};"
                f" a run only grows: ask for worlds={kept}, or begin another with run=..."
            )
        if wanted != self.settings:
            self.storage.append(self.paths.settings, _to_yaml(wanted), ".yaml")
            self.settings = wanted

    def check_dataset(self, fingerprint: Mapping[str, Any]) -> None:
        """Keep the fingerprint of the training data, or compare it with the one that was kept.

        Args:
            fingerprint: what `workers.shards.ShardSet.fingerprint` returns.

        Raises:
            RunError: the data changed since the run began; names the first shard that differs.
        """
        wanted = _plain(fingerprint)
        if not self.storage.exists(self.paths.dataset):
            values = {"fingerprint": wanted}
            self.storage.write_json(self.paths.dataset, values, schema=SCHEMA)
            return
        kept = self.dataset().get("fingerprint")
        if kept != wanted:
            raise RunError(
                f"{self.uri}: expected the training data that the run began with, found"
                f" {_difference(kept, wanted)}; restore the data, or begin another run with run=..."
            )

    def dataset(self) -> dict[str, Any]:
        """Return what is kept of the training data: `fingerprint`, and `content` once known."""
        path = self.paths.dataset
        return self.storage.read_json(path, schema=SCHEMA) if self.storage.exists(path) else {}

    def state(self, world: int) -> WorldState:
        """Return how far a world is.

        Raises:
            StorageError: its state.json is altered.
        """
        path = self.paths.state(world)
        if not self.storage.exists(path):
            return WorldState(index=world)
        values = self.storage.read_json(path, schema=SCHEMA)
        state = WorldState.from_dict(values, self.storage.where(path))
        if state.index != world:
            raise _altered(self.storage.where(path), f"that of world {state.index}")
        return state

    def states(self) -> list[WorldState]:
        """Return how far each of the R worlds is, in order."""
        return self.each(self.state)

    def each(self, read: Callable[[int], T]) -> list[T]:
        """Return what `read` returns for each world, in order.

        Where the storage is not on a local disk, many are read side by side.
        """
        if self.storage.is_local:
            return [read(world) for world in range(self.worlds)]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(read, range(self.worlds)))

    def finished(self, world: int) -> tuple[str, Manifest] | None:
        """Return the attempt at a world that counts, and what is in its `final/`, or None.

        That is the winner that the driver wrote down, or, as long as it wrote none, the earliest
        attempt that committed: one that was thought dead may have gone on beside a later one.
        None too if the winner's files are gone or cut short: the world has to be trained again.

        Raises:
            StorageError: its state.json is altered.
            SchemaError: another version wrote the files.
        """
        winner = self.state(world).winner
        if winner is None:
            return self.paths.finished(world)
        manifest = self.storage.committed(self.paths.final(world, winner))
        return (winner, manifest) if manifest else None

    def accept(self, world: int) -> tuple[str | None, str]:
        """Return the attempt at a world that counts, or None, and why another does not.

        What it read is held against what worlds before it read, and kept. Weights that come of
        other rows are withdrawn: nothing takes them for committed any more. For the driver alone.

        Raises:
            StorageError: dataset.json is altered, or cannot be written.
            StorageUnreachable: nothing is known.
            SchemaError: another version wrote the files.
        """
        refusal = ""
        while found := self.finished(world):
            attempt, manifest = found
            if attempt == self.state(world).winner:
                return attempt, ""
            # Trouble with what is kept says nothing of the weights.
            dataset = self.dataset()
            kept = merge_content(dataset.get("content", {}), {})
            try:
                merged = merge_content(kept, self._content(world, attempt, manifest))
            except (SchemaError, StorageUnreachable):
                raise
            except (DataError, StorageError) as error:
                self.storage.delete(f"{self.paths.final(world, attempt)}/{COMMIT}")
                refusal = f"its weights do not count: {error}"
                continue
            if merged != kept:
                values = {**dataset, "content": merged}
                self.storage.write_json(self.paths.dataset, values, schema=SCHEMA)
            return attempt, ""
        return None, refusal

    def acceptable(self, world: int) -> tuple[str, Manifest] | None:
        """Return what `accept` would, with what is in the attempt's `final/`; change nothing."""
        found = self.finished(world)
        if found is None or found[0] == self.state(world).winner:
            return found
        try:
            kept = self.dataset().get("content", {})
            merge_content(kept, self._content(world, *found))
        except DataError:
            return None
        return found

    def _content(self, world: int, attempt: str, manifest: Manifest) -> Any:
        """Return what an attempt read that is done, as far as it says so."""
        if _CONTENT not in manifest.files:
            return {}
        folder = self.paths.final(world, attempt)
        data = self.storage.read_committed(folder, _CONTENT, manifest)
        return from_json(data, self.storage.where(f"{folder}/{_CONTENT}")).get("content", {})

    def save(self, state: WorldState) -> None:
        """Write a world's state; for the driver alone."""
        self.storage.write_json(self.paths.state(state.index), state.to_dict(), schema=SCHEMA)

    def progress(self, world: int, attempt: str) -> dict[str, Any]:
        """Return the newest progress that an attempt wrote; empty if none yet."""
        path = self.paths.progress(world, attempt)
        return self.storage.read_json(path) if self.storage.exists(path) else {}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _to_yaml(values: Mapping[str, Any]) -> bytes:
    whole = {"schema": SCHEMA, "sha256": content_sha256(values), **values}
    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    return text.encode()


class _Loader(yaml.SafeLoader):
    # Without aliases: a kilobyte of them may stand for more values than fit into memory.
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _read_yaml(storage: Storage, path: str) -> dict[str, Any]:
    where = storage.where(path)
    try:
        values = _Loader(storage.read_bytes(path, at_most=_LARGEST_YAML)).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _altered(where, f"no YAML ({error})") from error
    if not isinstance(values, dict):
        raise _altered(where, type(values).__name__)
    found = values.pop("schema", None)
    if found != SCHEMA:
        raise SchemaError(
            f"{where}: expected schema {SCHEMA}, found {found}; another version of manyworlds"
            " wrote it: use that version, or begin another run with run=..."
        )
    check_content(values, where)
    return values


def _newest_settings(storage: Storage) -> dict[str, Any]:
    versions = storage.numbered(RunPaths.settings)
    return _read_yaml(storage, f"{RunPaths.settings}/{versions[-1]}") if versions else {}


def _check_same(storage: Storage, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    old, new = dict(_leaves(kept)), dict(_leaves(wanted))
    lines = [
        f"  {key}: the run has {old.get(key, 'nothing')!r}, found {new.get(key, 'nothing')!r}"
        for key in dict.fromkeys([*old, *new])
        if key not in old or key not in new or old[key] != new[key]
    ]
    if lines:
        raise RunError(
            f"{storage.uri}: expected the settings that this run was made with, found others:\n"
            + "\n".join(lines)
            + "\nuse another run=... for these, or the run's own settings"
        )


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _difference(kept: Any, found: dict[str, Any]) -> str:
    old = kept.get("shards") if isinstance(kept, dict) else None
    new = found.get("shards")
    if not isinstance(old, list) or not isinstance(new, list):
        return "another fingerprint"
    for before, now in zip(old, new, strict=False):
        if before != now:
            return f"another shard {_name(now)}: {_shape(now)} instead of {_shape(before)}"
    if len(old) > len(new):
        return f"{len(new)} shards instead of {len(old)}: {_name(old[len(new)])} is missing"
    if len(new) > len(old):
        return f"{len(new)} shards instead of {len(old)}: {_name(new[len(old)])} is new"
    return "another fingerprint"


def _shape(shard: Any) -> str:
    if not isinstance(shard, dict):
        return str(shard)
    # Not the rows of each of a thousand row groups.
    short = {key: value for key, value in shard.items() if not isinstance(value, list)}
    return ", ".join(f"{key} {value}" for key, value in short.items() if key != "name")


def _name(shard: Any) -> str:
    return str(shard.get("name", shard)) if isinstance(shard, dict) else str(shard)


def _altered(where: str, found: str) -> StorageError:
    return StorageError(
        f"{where}: expected a file of a run, found {found}; the file was altered: restore it"
    )
