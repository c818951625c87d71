"""Everything that manyworlds raises on purpose.

    ManyworldsError
    ├── ConfigError        a setting that cannot work; names every problem at once
    ├── DataError          rows that cannot be trained on or asked about: names shard and row group
    │   └── BadShardError           a file that cannot be read at all
    │       └── ContradictionError  rows that are not what another read of them found
    ├── StorageError       a file of a run or an ensemble that is missing, cut or altered
    │   ├── SchemaError         a file written by another version of the format
    │   ├── StorageFull         a disk without room for one more file; what was there still is
    │   └── StorageUnreachable  a disk or server that does not answer: nothing is known of its files
    ├── TrainingError      a world that went wrong: not-a-number, exploding loss
    └── RunError           a run that cannot go on as asked: other config, other driver, no worlds

Each message says what was expected, what was found and what to do, because it
is printed to users without a traceback. Every class takes that one sentence as
its only argument, so that it survives the trip between processes.
"""


class ManyworldsError(Exception):
    """Base of all errors meant for users."""


class ConfigError(ManyworldsError):
    """A setting that cannot work."""


class DataError(ManyworldsError):
    """Rows that cannot be trained on or asked about."""


class BadShardError(DataError):
    """A Parquet file that is missing, or cannot be read."""


class ContradictionError(BadShardError):
    """Rows that are not what another read of them found."""


class StorageError(ManyworldsError):
    """A file of a run or an ensemble that is missing, cut short or altered."""


class SchemaError(StorageError):
    """A file written by another version of the format."""


class StorageFull(StorageError):
    """A disk without room for a file; nothing is left of it, and older files are untouched."""


class StorageUnreachable(StorageError):
    """A disk or a server that does not answer as it should; its files may be whole."""


class TrainingError(ManyworldsError):
    """A world whose training went wrong."""


class RunError(ManyworldsError):
    """A run that cannot go on as asked."""
