"""What a run needs no more: superseded checkpoints, leftovers, ensembles of the past.

What stays in the place of something else is read to its end and checked before anything goes.
Attempts that no driver has closed are let be: what is left of a dead driver may still write.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from orchestrator.ensemble.artefact import served
from orchestrator.run import Run
from orchestrator.state import WorldState
from workers.storage import COMMIT

_ATTEMPT = re.compile(r"worlds/(\d{3,})/attempts/([^/]+)/.+")
_FOLDER = re.compile(r"(worlds/(\d{3,})/attempts/[^/]+/(?:checkpoints/\d{8,}|final))/[^/]+")
_ENSEMBLE = re.compile(r"(ensembles/[0-9a-f]{16})/[^/]+")
_UNCOMMITTED = "never committed"

_Sizes = Mapping[str, int]
"""Bytes by path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A folder or file that a run needs no more."""

    path: str
    """In the run's folder."""
    why: str
    """In words."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A checkpoint, the weights that an attempt handed in, or an ensemble."""

    path: str
    world: int
    """-1 for an ensemble."""
    size: int
    committed: bool

    def item(self, why: str) -> Item:
        return Item(path=self.path, why=why, size=self.size)


def superfluous(run: Run) -> list[Item]:
    """Return what a run needs no more; reads its storage and changes nothing.

    Raises:
        StorageError: what stays in the place of something else is altered.
    """
    found = run.storage.sizes()
    states = {world: run.state(world) for world in _worlds(found)}
    let_be = tuple(_open_attempts(run, states.values()))
    sizes = {path: size for path, size in found.items() if not path.startswith(let_be)}
    items = [*_of_worlds(run, states, sizes), *_of_ensembles(run, sizes)]
    covered = tuple(f"{item.path}/" for item in items)
    return [*items, *_half_written(run, sizes, covered)]


def remove(run: Run, items: Iterable[Item]) -> list[Item]:
    """Remove `items` from a run that nobody else drives meanwhile; return them."""
    removed = []
    for item in items:
        run.storage.delete(item.path)
        removed.append(item)
    return removed


def _worlds(sizes: _Sizes) -> list[int]:
    matches = map(_ATTEMPT.fullmatch, sizes)
    return sorted({int(match[1]) for match in matches if match})


def _open_attempts(run: Run, states: Iterable[WorldState]) -> Iterator[str]:
    for state in states:
        for attempt in state.attempts:
            if attempt.cause is None:
                yield f"{run.paths.attempt(state.index, attempt.name)}/"


def _folders(sizes: _Sizes, pattern: re.Pattern[str]) -> list[_Folder]:
    """Return the folders with files in `sizes`, whose paths and worlds `pattern` finds."""
    matches = [match for match in map(pattern.fullmatch, sorted(sizes)) if match]
    total: Counter[str] = Counter()
    for match in matches:
        total[match[1]] += sizes[match[0]]
    worlds = {match[1]: int(match[2]) if pattern.groups > 1 else -1 for match in matches}
    return [
        _Folder(path=path, world=world, size=total[path], committed=f"{path}/{COMMIT}" in sizes)
        for path, world in worlds.items()
    ]


def _of_worlds(run: Run, states: Mapping[int, WorldState], sizes: _Sizes) -> Iterator[Item]:
    folders = _folders(sizes, _FOLDER)
    for world, group in groupby(sorted(folders, key=attrgetter("world")), attrgetter("world")):
        mine, winner = list(group), states[world].winner
        kept = winner and run.paths.final(world, winner)
        yield from (
            folder.item(_UNCOMMITTED)
            for folder in mine
            if not folder.committed and folder.path != kept
        )
        checkpoints = [item for item in mine if item.committed and "/checkpoints/" in item.path]
        yield from _superseded(run, states[world], checkpoints)


def _superseded(run: Run, state: WorldState, checkpoints: list[_Folder]) -> list[Item]:
    """Return the committed checkpoints of a world that something newer stands in for."""
    if state.winner:
        final = run.paths.final(state.index, state.winner)
        return _behind(run, final, checkpoints, "its world is done")
    if newest := run.paths.newest_checkpoint(state.index):
        older = [item for item in checkpoints if _step(item.path) <= newest.step]
        older = [item for item in older if item.path != newest.folder]
        return _behind(run, newest.folder, older, "a newer checkpoint is there")
    return []


def _behind(run: Run, kept: str, old: list[_Folder], why: str) -> list[Item]:
    """Return what may go, once the folder that is kept in its place was read to its end."""
    if old:
        run.storage.verify(kept)
    return [item.item(why) for item in old]


def _step(checkpoint: str) -> int:
    return int(checkpoint.rpartition("/")[2])


def _of_ensembles(run: Run, sizes: _Sizes) -> Iterator[Item]:
    digest = served(run.storage)
    kept = run.paths.ensemble(digest) if digest else None
    whole = kept is not None and run.storage.committed(kept) is not None
    for folder in _folders(sizes, _ENSEMBLE):
        if not folder.committed:
            yield folder.item(_UNCOMMITTED)
        elif whole and folder.path != kept:
            yield folder.item("another ensemble is served")


def _half_written(run: Run, sizes: _Sizes, covered: tuple[str, ...]) -> Iterator[Item]:
    for path, size in sorted(sizes.items()):
        if run.storage.is_half_written(path) and not path.startswith(covered):
            yield Item(path=path, why="half written", size=size)
