"""Which files a data set has: a file, a folder or a glob on any pyarrow filesystem."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from workers.errors import DataError, StorageError, StorageUnreachable
from workers.storage import Retries
from workers.storage.filesystems import remote, resolve
from workers.storage.remote_file import RemoteFile
from workers.storage.wording import explained

_REMOTE = {"s3": "s3", "gcs": "gs"}
"""Scheme of the URIs of those filesystems whose paths begin with a bucket."""


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a data set."""

    files: Files
    base: str
    """The folder that all files are in, at any depth."""
    sizes: dict[str, int]
    """Bytes of each file by its path relative to `base`, in order."""
    storage_uri: str | None
    """Of `base`, for `workers.storage.Storage`; None: on a filesystem that it cannot name."""

    def path(self, name: str) -> str:
        """Return the path of a file, there or not."""
        return f"{self.base}/{name}"

    def open(self, name: str) -> pa.NativeFile:
        """Return a file, open to be read anywhere in."""
        return self.files.open(self.path(name))


class Files:
    """What is asked of a filesystem; of a server, again and again until it answers.

    Args:
        uri: of anything on it.
        retries: how requests are tried again.

    Raises:
        DataError: the URI names no filesystem.
        StorageUnreachable: its server does not answer.
    """

    def __init__(self, uri: str, retries: Retries) -> None:
        self._retries = retries
        self.path = str(Path(uri).expanduser().absolute())
        """Of `uri` on the filesystem."""
        self.filesystem: Any = pa.fs.LocalFileSystem()
        if "://" in uri:
            try:
                self.filesystem, self.path = resolve(uri, retries)
            except StorageUnreachable:
                raise
            except StorageError as error:
                raise DataError(str(error)) from error
        self.is_local = isinstance(self.filesystem, pa.fs.LocalFileSystem)
        if not self.is_local:
            self.filesystem = remote(self.filesystem).filesystem

    def infos(self, what: Any) -> Any:
        """Return what pyarrow's `get_file_info` does of a path, of several, or of a selector."""
        with explained(str(getattr(what, "base_dir", what))):
            return self._retries.run(lambda: self.filesystem.get_file_info(what))

    def open(self, path: str) -> pa.NativeFile:
        """Return a file, open to be read anywhere in; `OSError` if that cannot be."""
        if self.is_local:
            return self.filesystem.open_input_file(path)
        return pa.PythonFile(RemoteFile(self.filesystem, path, self._retries), mode="r")


def find(
    uri: str, retries: Retries | None = None, *, endings: tuple[str, ...] = (".parquet",)
) -> Found:
    """Return the files that a URI, a path or a glob stands for.

    Args:
        uri: where they are.
        retries: how requests to a server are tried again; None: for up to two minutes.
        endings: of the names of those that are looked for in a folder.

    Raises:
        DataError: if there are none, or the URI names no filesystem.
        StorageUnreachable: if a server does not answer.
    """
    files = Files(uri, retries or Retries())
    path = files.path
    info = files.infos(path)
    if info.type == pa.fs.FileType.Directory:
        base = path.rstrip("/")
        found = files.infos(pa.fs.FileSelector(path))
        found = [file for file in found if file.is_file and file.path.endswith(endings)]
    else:
        base = _folder_of(path)
        found = [info] if info.is_file else _glob(files, path, base)
    if not found:
        endings_told = " or ".join(f"*{ending}" for ending in endings)
        kind = "Parquet" if endings == (".parquet",) else endings_told
        raise DataError(
            f"{uri}: expected a {kind} file, a folder of {endings_told} files, or a glob, found"
            f" {'a folder without any' if info.type == pa.fs.FileType.Directory else 'no file'};"
            " check the path"
        )
    sizes = {file.path[len(base) + 1 :]: file.size for file in found}
    return Found(files, base, dict(sorted(sizes.items())), _storage_uri(files, base, uri))


def _folder_of(path: str) -> str:
    """Return the folder before the last part of a path, or before its first wildcard."""
    parts = path.split("/")
    wild = [number for number, part in enumerate(parts) if any(sign in part for sign in "*?[")]
    return "/".join(parts[: min([*wild, len(parts) - 1])])


def _glob(files: Files, pattern: str, base: str) -> list[Any]:
    if files.is_local:
        return [info for info in files.infos(sorted(glob.glob(pattern))) if info.is_file]
    if base != pattern.rpartition("/")[0]:
        raise DataError(f"{pattern}: expected wildcards in the last part of the path only")
    found = files.infos(pa.fs.FileSelector(base, allow_not_found=True))
    last = pattern.rpartition("/")[2]
    return [info for info in found if info.is_file and Path(info.path).match(last)]


def _storage_uri(files: Files, base: str, uri: str) -> str | None:
    if files.is_local:
        return base
    scheme = _REMOTE.get(files.filesystem.type_name)
    _, mark, query = uri.partition("?")
    # A glob may hold a question mark too; what names settings has an equals sign.
    return f"{scheme}://{base}{mark + query if '=' in query else ''}" if scheme else None
