"""Files on a local disk: each is written under another name, synced and renamed."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workers.storage.formats import COMMIT, FileEntry, measure
from workers.storage.info import FileInfo

_CHUNK = 1 << 20
"""Bytes."""


class LocalFiles:
    """The files of the local disk by their absolute paths; raises `OSError`."""

    is_local = True

    def infos(self, paths: list[str]) -> list[FileInfo | None]:
        """Return what is known of each file or folder, or None where there is none."""
        return [_info(path) for path in paths]

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none if there is no such folder."""
        try:
            found = os.listdir(folder)
        except FileNotFoundError:
            return []
        return [name for name in found if not is_unseen(name)]

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file below a folder, by its path from there."""
        found = {}
        for parent, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                # A file that went since it was listed is none.
                with suppress(FileNotFoundError):
                    found[os.path.relpath(path, folder)] = os.stat(path).st_size
        return found

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes in order, in pieces."""
        return file_chunks(Path(path))

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole."""
        self.write_chunks(path, lambda: [data])

    def write_chunks(self, path: str, chunks: Callable[[], Iterable[bytes]]) -> FileEntry:
        """Write a file from pieces; return what was written."""
        with _unseen(Path(path)) as temporary, temporary.open("xb") as file:
            return measure(chunks(), file.write)

    def write_by(
        self, path: str, write: Callable[[Path], None], beat: Callable[[], None]
    ) -> FileEntry:
        """Write a file by a function that gets a path to write at; return what was written."""
        with _unseen(Path(path)) as temporary:
            write(temporary)
            # Some libraries make files that only their owner can read, whatever the umask.
            temporary.chmod(temporary.parent.stat().st_mode & 0o666)
            return measure(file_chunks(temporary, beat))

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with its `COMMIT` first; nothing if there is none."""
        if os.path.isdir(path):
            Path(path, COMMIT).unlink(missing_ok=True)
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)


def file_chunks(path: Path, beat: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    """Yield a local file's bytes in order, in pieces; call `beat` before each."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            beat()
            yield chunk


def _info(path: str) -> FileInfo | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    is_file = not stat.S_ISDIR(found.st_mode)
    return FileInfo(is_file, found.st_size if is_file else 0, found.st_mtime_ns)


@contextmanager
def _unseen(target: Path) -> Iterator[Path]:
    """Give a path to write at, in a folder of its own, which takes `target`'s place at the end.

    A folder, because libraries leave temporary files of their own beside what they write.
    """
    _make_folder(target.parent)
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    folder.mkdir()
    try:
        yield folder / "file"
        _sync(folder / "file")
        os.replace(folder / "file", target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _sync(target.parent)


def is_unseen(name: str) -> bool:
    """Return whether a name is that of a folder in which a file is being written."""
    return name.startswith(".") and name.endswith(".tmp")


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
