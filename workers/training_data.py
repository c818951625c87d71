"""The training rows of one world, as batches that are ready to train on."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from workers.classifier import prepare_examples
from workers.config import WorldConfig
from workers.dropout import leave_features_out
from workers.features import Featurizer
from workers.hashing import derive_seed
from workers.kernels.steps import Examples
from workers.partition import Partition
from workers.prefetch import prefetch
from workers.shards import (
    Block,
    Content,
    LeftOut,
    LeftOuts,
    Position,
    ShardSet,
    Slice,
    shuffled_blocks,
    steps_per_epoch,
)
from workers.storage.node_cache import NodeCache


@dataclass(frozen=True, slots=True)
class Ready:
    """One batch."""

    examples: Examples
    after: Position
    """Where to go on once it was trained on."""
    block: Block
    """That its rows are of."""
    ends_epoch: bool = False


class TrainingData:
    """The shards that one world trains on, and what it has read of them.

    Args:
        config: of the world.
        index: of the world.
        partition: of the world.
        dataset: as `workers.world.World` takes it.

    Raises:
        DataError: for shards that cannot be trained on.
        StorageError: if `dataset` is not what a run remembers.
    """

    def __init__(
        self, config: WorldConfig, index: int, partition: Partition, dataset: Mapping[str, Any]
    ) -> None:
        self._config = config
        self._index = index
        self._partition = partition
        self._featurizer = Featurizer(config.data, config.features, config.seed, index)
        self.content = Content(dataset.get("content"))
        self._open(dataset.get("fingerprint"))

    @property
    def steps(self) -> int:
        """Batches of all epochs if nothing is left out."""
        data, training = self._config.data, self._config.training
        return training.epochs * steps_per_epoch(
            self._shards.rows, block_rows=data.block_rows, batch_size=training.batch_size
        )

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """All that is left out, of blocks that were read ahead too."""
        return self._left_out.entries

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes, ready for JSON."""
        return {"fingerprint": self._shards.fingerprint(), "content": self.content.to_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the shards that an earlier attempt read.

        Raises:
            DataError: they are not there any more, or not the same.
            StorageError: if `state` is altered.
        """
        if state["fingerprint"] != self._shards.fingerprint():
            self._open(state["fingerprint"])
        self.content.restore(state["content"])

    def has(self, position: Position) -> bool:
        """Return whether some epoch has a block with that many rows at a position."""
        rows, size = self._shards.rows, self._config.data.block_rows
        return (
            position.epoch < self._config.training.epochs
            and position.block * size < rows
            and position.row <= min(size, rows - position.block * size)
        )

    def where(self, pieces: tuple[Slice, ...]) -> str:
        """Return the words that name the row groups of some slices."""
        return " and ".join(dict.fromkeys(self._shards.where(piece) for piece in pieces))

    def batches(self, start: Position, left_out: tuple[LeftOut, ...]) -> Iterator[Ready]:
        """Yield batches from `start` to the end of the last epoch.

        Args:
            start: the `after` of the last batch that was trained on.
            left_out: of that batch's block.

        Raises:
            DataError: for rows that cannot be trained on.
        """
        self._left_out = LeftOuts(self._shards, self._config.data, left_out)
        with closing(self._unmarked(start)) as batches:
            held: Ready | None = None
            try:
                for ready in batches:
                    if held:
                        yield replace(held, ends_epoch=held.block.epoch != ready.block.epoch)
                    held = ready
            except Exception:
                # It comes before what went wrong after it.
                if held:
                    yield held
                raise
            if held:
                yield replace(held, ends_epoch=True)

    def _unmarked(self, start: Position) -> Generator[Ready, None, None]:
        size, dropout = self._config.training.batch_size, self._config.features.dropout
        blocks = shuffled_blocks(
            self._shards,
            self._config.data,
            seed=self._config.seed,
            world=self._index,
            epochs=self._config.training.epochs,
            start=start,
            content=self.content,
            left_out=self._left_out,
        )
        with closing(prefetch(blocks, 1)) as ahead:
            for block in ahead:
                key = self._key(block)
                resumed = (block.epoch, block.index) == (start.epoch, start.block)
                rows = block.table.num_rows
                for row in range(start.row if resumed else 0, rows, size):
                    end = min(row + size, rows)
                    batch = self._featurizer.batch(block.table.slice(row, end - row), labels=True)
                    left = leave_features_out(batch, dropout, key, row)
                    yield Ready(
                        prepare_examples(left, self._partition),
                        Position(epoch=block.epoch, block=block.index, row=end),
                        block,
                    )

    def _key(self, block: Block) -> int:
        return derive_seed(self._config.seed, self._index, "dropout", block.epoch, block.index)

    def _open(self, known: Mapping[str, Any] | None) -> None:
        data, runtime = self._config.data, self._config.runtime
        is_remote = "://" in data.train and not data.train.startswith("file://")
        cached = is_remote and runtime.cache_bytes
        self._shards = ShardSet(
            data.train,
            known=known,
            lenient=data.on_bad_shard == "skip",
            cache=NodeCache(runtime.cache_bytes, runtime.cache_folder) if cached else None,
        )
        self._shards.check_columns(data)
        self._left_out = LeftOuts(self._shards, data)
