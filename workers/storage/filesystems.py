"""Which filesystem a URI means, and how it is spoken to."""

from __future__ import annotations

import os
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs

from workers.errors import StorageError, StorageUnreachable
from workers.storage.retrying import Retries, is_transient
from workers.storage.wording import without_secrets

_OBJECT_STORES = ("s3", "gcs", "abfs")
_CONNECT_TIMEOUT = 5.0
_STALL_TIMEOUT = 20.0
"""Seconds without a byte after which a request counts as cut."""
_GCS_PATIENCE = "retry_limit_seconds=10"
"""How long Arrow itself tries again; its default would be 15 minutes an operation."""


class Remote(NamedTuple):
    """An object store as Arrow speaks to it."""

    filesystem: Any
    """Makes one try a request, and writes a small file by one request."""
    uploads: Any
    """Writes long files: tries each part again before the whole fails."""
    needs_folders: bool
    """Whether a file can only be written into a folder that is there."""


class Place(NamedTuple):
    """Where a storage is."""

    uri: str
    """Absolute; what users see."""
    root: str
    """The folder's path in its filesystem."""
    remote: Remote | None
    """None: the local disk."""


def open_place(uri: str, retries: Retries) -> Place:
    """Return the place that a folder's path or a URI means; it need not exist.

    Raises:
        StorageError: it cannot mean one, or holds credentials.
        StorageUnreachable: its server cannot be reached.
    """
    if not uri:
        raise StorageError("expected a folder or URI, found nothing; for example runs/first")
    if "://" not in uri:
        path = os.path.abspath(os.path.expanduser(uri))
        return Place(path, path, None)
    filesystem, path = resolve(uri, retries)
    path = path.rstrip("/")
    if not path:
        raise StorageError(f"{uri}: expected a bucket and a folder in it, found neither")
    if filesystem.type_name == "local":
        return Place(path, path, None)
    return Place(uri.rstrip("/"), path, remote(filesystem))


def resolve(uri: str, retries: Retries) -> tuple[Any, str]:
    """Return the filesystem that a URI means, and the path in it.

    Raises:
        StorageError: it means none, or holds credentials.
        StorageUnreachable: its server cannot be reached.
    """
    refuse_credentials(uri)
    asked = uri
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in uri:
        asked = f"{uri}{'&' if '?' in uri else '?'}{_GCS_PATIENCE}"
    try:
        found: tuple[Any, str] = retries.run(lambda: pyarrow.fs.FileSystem.from_uri(asked))
    except (OSError, ValueError, pa.ArrowException) as error:
        kind = StorageUnreachable if is_transient(error) else StorageError
        raise kind(
            f"{uri}: expected a folder, or a URI of file://, s3:// or gs://, found:"
            f" {without_secrets(str(error))}"
        ) from None
    return found


def remote(filesystem: Any) -> Remote:
    """Return the ways to speak to an object store, with its timeouts set."""
    needs_folders = filesystem.type_name not in _OBJECT_STORES
    if filesystem.type_name != "s3":
        return Remote(filesystem, filesystem, needs_folders)
    return Remote(
        # Delayed: a file is opened when its bytes are there, so one request writes it. Not for
        # uploads: one that failed to begin would later put an empty file.
        _s3(filesystem, tries=1, allow_delayed_open=True),
        _s3(filesystem, tries=3, allow_delayed_open=False),
        needs_folders,
    )


def refuse_credentials(uri: str) -> None:
    """Let a path or a URI pass that holds no credentials.

    Raises:
        StorageError: it holds some.
    """
    parts = urlsplit(uri)
    user, at, _ = parts.netloc.rpartition("@")
    # The URI ends up in states, logs and on screens. GCS has no secret in "anonymous@".
    if (at and user != "anonymous") or any(
        word in parts.query.lower() for word in ("@", "key", "secret", "token", "passw")
    ):
        raise StorageError(
            "expected a URI without credentials, found some before an '@' or after the '?'; give"
            " them by the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def _s3(filesystem: Any, *, tries: int, allow_delayed_open: bool) -> Any:
    """Return `filesystem` with settings that a URI cannot hold."""
    _, (settings, *_) = filesystem.__reduce__()
    return pyarrow.fs.S3FileSystem(
        **{
            **settings,
            "connect_timeout": _CONNECT_TIMEOUT,
            "request_timeout": _STALL_TIMEOUT,
            "allow_delayed_open": allow_delayed_open,
            "retry_strategy": pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=tries),
        }
    )
