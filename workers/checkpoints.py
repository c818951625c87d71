"""Checkpoints of a world: written beside its training, read back by the next attempt."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from workers.background import start
from workers.errors import ContradictionError, SchemaError, StorageError
from workers.log import AttemptLog
from workers.storage import (
    COMMIT,
    Checkpoint,
    FileEntry,
    Manifest,
    RunPaths,
    Source,
    Storage,
    from_json,
    to_json,
)
from workers.storage.formats import measure
from workers.storage.local import file_chunks
from workers.storage.wording import explained
from workers.tensors import Tensors, read_tensors, tensor_file
from workers.world import World

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
T = TypeVar("T")


class _Contents(NamedTuple):
    # All of a world that a checkpoint keeps.
    model: Tensors
    optimizer: Tensors
    state: dict[str, Any]


class Checkpoints:
    """The checkpoint that an attempt resumes from, and those that it writes.

    Each is written by a thread beside the training.

    A step waits for one copy in memory at most. The copy takes as much memory on the host as
    the weights and the optimiser's tensors together (on a GPU pinned, for speed), from the
    first checkpoint to the end of the attempt; there is never a second one. What an attempt
    wrote before is removed once something newer is committed.

    A checkpoint that cannot be written ends nothing: `trouble` says why, the last one that was
    committed stays, and the next one is tried when its time comes.

    Args:
        paths: of the run.
        attempt: the name of the attempt's folder.
        log: told of every checkpoint.
        beat: a sign of life, called after every piece that was read and every file that was
            written, from whichever thread does it.
    """

    def __init__(
        self, paths: RunPaths, attempt: str, log: AttemptLog, beat: Callable[[], None]
    ) -> None:
        self.trouble: str | None = None
        """Why the newest checkpoint could not be written, or None."""
        self._paths = paths
        self._storage = paths.storage
        self._attempt = attempt
        self._log = log
        self._beat = beat
        self._copy: tuple[Tensors, Tensors] | None = None
        self._writing: Future[None] | None = None
        self._committed: int | None = None
        self._old: list[str] = []

    def resume(self, world: World) -> Checkpoint | None:
        """Restore a world from the furthest checkpoint of any attempt that can be read.

        One that was altered since it was committed is passed over, with a line in the log. The
        tensors are mapped from their files, so that no memory is held beside the world's own.

        Returns:
            The checkpoint, or None if there is none that can be read.

        Raises:
            SchemaError: another version wrote one of them.
            StorageError: the storage cannot be reached, or the world is of another network.
        """
        passed: set[str] = set()
        while found := self._furthest(world.index, passed):
            passed.add(found.folder)
            try:
                contents = _read(self._storage, found, self._beat)
            except _Altered as error:
                self._log.warning(f"passed over the checkpoint of step {found.step}: {error}")
                continue
            if contents:
                try:
                    world.restore(*contents)
                except ContradictionError as error:
                    # The rows that it was made with are not those of the run's other worlds.
                    self._log.warning(f"passed over the checkpoint of step {found.step}: {error}")
                    continue
                self._committed = found.step
                return found
            self._log.info(f"the checkpoint of step {found.step} was removed while it was read")
        return None

    def offer(self, world: World) -> bool:
        """Copy the world and begin to write it; False, and nothing else, while one is written.

        Raises:
            Exception: what nobody foresaw when the last one was written.
        """
        if self.busy:
            return False
        self.wait()
        self._writing = start(
            partial(self._write, world.index, world.step, self._copy_of(world)),
            "manyworlds-checkpoint",
        )
        return True

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def wait(self) -> None:
        """Return when nothing is being written; raises as `offer`."""
        if self._writing:
            self._writing.result()

    def last(self, world: World) -> None:
        """Write the world, which trains no more, unless its step is committed already."""
        self.wait()
        if self._committed != world.step:
            contents = _Contents(world.parameters, world.optimizer_state, world.state())
            self._write(world.index, world.step, contents)

    def close(self) -> None:
        """Return when nothing is being written, whatever came of it."""
        if self._writing:
            wait([self._writing])

    def _furthest(self, world: int, passed: set[str]) -> Checkpoint | None:
        # Listed anew each time: a late attempt may replace its own while it is read.
        committed = self._paths.checkpoints(world)
        return next((found for found in committed if found.folder not in passed), None)

    def _copy_of(self, world: World) -> _Contents:
        if self._copy is None:
            pinned = world.device != "cpu"
            self._copy = (
                _buffers(world.parameters, pinned=pinned),
                _buffers(world.optimizer_state, pinned=pinned),
            )
        world.copy_to(*self._copy)
        return _Contents(*self._copy, world.state())

    def _write(self, world: int, step: int, contents: _Contents) -> None:
        folder, began = self._paths.checkpoint(world, self._attempt, step), time.monotonic()
        try:
            self._commit(folder, contents)
        except (StorageError, OSError) as error:
            self._failed(folder, step, error)
            return
        self.trouble, self._committed = None, step
        self._log.info(f"checkpoint of step {step} in {time.monotonic() - began:.1f} s")
        # The old ones go only when the new one counts.
        self._old = [old for old in self._old if old != folder and not self._removed(old)]
        self._old.append(folder)

    def _commit(self, folder: str, contents: _Contents) -> None:
        sources: dict[str, Source] = {
            MODEL: tensor_file(contents.model, self._beat),
            OPTIMIZER: tensor_file(contents.optimizer, self._beat),
            STATE: to_json(contents.state),
        }
        entries: dict[str, FileEntry] = {}
        for name, source in sources.items():
            entries[name] = self._storage.write_file(f"{folder}/{name}", source, self._beat)
            self._beat()
        self._storage.seal(folder, entries)

    def _failed(self, folder: str, step: int, error: Exception) -> None:
        good = "there is no good one yet"
        if self._committed is not None:
            good = f"the last good one is of step {self._committed}"
        self.trouble = f"checkpoint of step {step}: {error}; {good}"
        self._log.warning(self.trouble)
        # Half a checkpoint counts for nothing, and takes the room that the next one needs.
        if not self._removed(folder):
            self._old.append(folder)

    def _removed(self, folder: str) -> bool:
        try:
            self._storage.delete(folder)
        except StorageError as error:
            self._log.warning(f"what counts no more could not be removed: {error}")
            return False
        return True


class _Altered(StorageError):
    """A committed file that is not what was committed."""


def _read(storage: Storage, found: Checkpoint, beat: Callable[[], None]) -> _Contents | None:
    # None: it is no longer there.
    try:
        read = _Reader(storage, found.folder, storage.manifest(found.folder), beat)
        model, optimizer = read(MODEL, read_tensors), read(OPTIMIZER, read_tensors)
        state = read(STATE, lambda path, where: from_json(path.read_bytes(), where))
    except SchemaError:
        raise
    except StorageError:
        if storage.exists(f"{found.folder}/{COMMIT}"):
            raise
        return None
    if state.get("step") != found.step:
        raise _Altered(
            f"{storage.where(found.folder)}: expected step {found.step},"
            f" found {state.get('step')!r}"
        )
    return _Contents(model, optimizer, state)


class _Reader(NamedTuple):
    # Reads files of a committed folder, each checked against its sha256 first.
    storage: Storage
    folder: str
    manifest: Manifest
    beat: Callable[[], None]

    def __call__(self, name: str, parse: Callable[[Path, str], T]) -> T:
        path = f"{self.folder}/{name}"
        where = self.storage.where(path)
        with _local(self.storage, path, self.beat) as local:
            try:
                found = measure(file_chunks(local, self.beat))
                wanted = self.manifest.files.get(name)
                if found != wanted:
                    raise _Altered(f"{where}: expected {_words(wanted)}, found {_words(found)}")
                return parse(local, where)
            except FileNotFoundError as error:
                raise StorageError(f"{where}: expected a file, found none") from error
            except (_Altered, SchemaError):
                raise
            except OSError:
                # A disk that does not answer says nothing of what is on it.
                with explained(where):
                    raise
            except StorageError as error:
                raise _Altered(str(error)) from error


@contextmanager
def _local(storage: Storage, path: str, beat: Callable[[], None]) -> Iterator[Path]:
    """Give a path to open by memory map: the file itself, or a copy that goes afterwards."""
    if storage.is_local:
        yield storage.local(path)
        return
    with tempfile.TemporaryDirectory(prefix="manyworlds-") as folder:
        Storage(folder).copy_from(storage, path, "copy", beat)
        yield Path(folder, "copy")


def _buffers(tensors: Tensors, *, pinned: bool) -> Tensors:
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        for name, tensor in tensors.items()
    }


def _words(entry: FileEntry | None) -> str:
    return f"{entry.size} bytes with sha256 {entry.sha256[:16]}…" if entry else "no such file"
