"""Every path of a run, and the only code that writes one.

Object stores have no rename, no append and no conditional put, so a folder
counts only once its `COMMIT` is there: the files first, then `COMMIT` with the
size and sha256 of each. On a local disk every single file is written under
another name, synced, renamed, and its folder synced. What a server did not do
is tried again. What is committed is verified when it is read.
"""

from workers.storage.files import Source, Storage
from workers.storage.filesystems import refuse_credentials
from workers.storage.formats import COMMIT, FileEntry, Manifest, from_json, is_number, to_json
from workers.storage.paths import Checkpoint, RunPaths
from workers.storage.retrying import Retries

__all__ = [
    "COMMIT",
    "Checkpoint",
    "FileEntry",
    "Manifest",
    "Retries",
    "RunPaths",
    "Source",
    "Storage",
    "from_json",
    "is_number",
    "refuse_credentials",
    "to_json",
]
