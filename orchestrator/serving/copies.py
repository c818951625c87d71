"""Ensembles of object stores, copied once to each machine: its processes map the same files."""

from __future__ import annotations

from pathlib import Path

from orchestrator.ensemble.artefact import MANIFEST, README, Artefact
from workers.errors import StorageError
from workers.storage import COMMIT, Storage
from workers.storage.node_folder import locked, shared_folder


def local(artefact: Artefact, folder: str | None = None) -> str:
    """Return where an ensemble is on a local disk: where it is, or in a copy.

    Processes that ask for the same one at the same time wait for one to fetch it, and so map the
    same files.

    Args:
        artefact: opened.
        folder: of copies; None: one of this user under the system's folder for temporary files.

    Raises:
        StorageError: it cannot be fetched, or the folder cannot be used.
    """
    if artefact.storage.is_local:
        return artefact.uri
    home = _home(folder)
    digest = artefact.manifest.digest
    copies = Storage(str(home))
    with locked(home / f"{digest}.lock"):
        if copies.committed(digest) != artefact.commit:
            names = [MANIFEST, *artefact.manifest.files, README]
            for name in [name for name in names if name in artefact.commit.files]:
                path = f"{artefact.folder}/{name}"
                found = copies.copy_from(artefact.storage, path, f"{digest}/{name}")
                if found != artefact.commit.files[name]:
                    raise StorageError(
                        f"{artefact.storage.where(path)}: expected"
                        f" {artefact.commit.files[name].size:,} bytes with another sha256, found"
                        f" {found.size:,}; merge the run again"
                    )
            # Last: it says that all others are there.
            copies.copy_from(artefact.storage, f"{artefact.folder}/{COMMIT}", f"{digest}/{COMMIT}")
    return copies.where(digest)


def forget(digest: str, folder: str | None = None) -> None:
    """Remove the copy of an ensemble; processes that map it keep what they map."""
    home = _home(folder)
    with locked(home / f"{digest}.lock"):
        Storage(str(home)).delete(digest)


def _home(folder: str | None) -> Path:
    return shared_folder(
        folder,
        "manyworlds-ensembles",
        holds="copies of ensembles",
        advice="set copies to another",
    )
