"""The files that a run will need, looked at before anything is spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig
from workers.config import DataConfig
from workers.errors import DataError
from workers.shards import ShardSet
from workers.storage import RunPaths, Storage


def open_inputs(config: RunConfig) -> ShardSet:
    """Return the training shards, once all inputs look as the settings say.

    Opens every shard of the training and the held-out rows, and the class names; reads
    metadata only. Where bad shards may be left out, those that the run began with are told
    from what is there.

    Raises:
        DataError: a file, a column or a class name is missing, or of another type.
    """
    skips = config.data.on_bad_shard == "skip"
    shards = ShardSet(
        config.data.train, known=_began_with(config) if skips else None, lenient=skips
    )
    shards.check_columns(config.data)
    if config.data.validation is not None:
        ShardSet(config.data.validation).check_columns(config.data)
    if config.data.class_names is not None:
        _check_names(config.data.class_names, config.data)
    return shards


def _began_with(config: RunConfig) -> dict[str, Any] | None:
    """Return the fingerprint of the training data that the run began with, if it did."""
    storage = Storage(config.run)
    if not storage.exists(RunPaths.dataset):
        return None
    kept: dict[str, Any] | None = storage.read_json(RunPaths.dataset).get("fingerprint")
    return kept


def open_names(uri: str, meaning: str) -> ShardSet:
    """Return files of class names, which have the columns `id` and `name`.

    Args:
        uri: of the files.
        meaning: the words that say what they should be.

    Raises:
        DataError: a column is missing.
    """
    names = ShardSet(uri)
    for path, schema in zip(names.paths, names.schemas, strict=True):
        if not {"id", "name"} <= set(schema.names):
            raise DataError(
                f"{path}: expected columns id and name, found {', '.join(schema.names)}; {meaning}"
            )
    return names


def _check_names(uri: str, data: DataConfig) -> None:
    names = open_names(uri, "data.class_names is a Parquet file with a row for each class")
    if names.rows != data.classes:
        raise DataError(
            f"{uri}: expected {data.classes:,} class names, one for each of data.classes,"
            f" found {names.rows:,}; add or remove rows, or correct data.classes"
        )


def absolute(uri: str) -> str:
    """Return a path that means the same in any folder; URIs do."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def anchored(config: RunConfig) -> RunConfig:
    """Return `config` with paths that mean the same in any folder."""
    data, folder = config.data, config.watch.tensorboard
    return replace(
        config,
        run=absolute(config.run),
        data=replace(
            data,
            train=absolute(data.train),
            validation=data.validation and absolute(data.validation),
            class_names=data.class_names and absolute(data.class_names),
        ),
        watch=replace(
            config.watch, tensorboard=absolute(folder) if folder not in (None, "auto") else folder
        ),
    )
