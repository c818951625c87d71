"""One attempt at one world of a run: resume, train, checkpoint, hand in the weights.

An attempt writes to its own folder only, so that two of them can never spoil
each other's files. It goes on from the newest committed checkpoint of any
earlier attempt at the same world.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from workers.config import WorldConfig
from workers.errors import StorageError
from workers.storage import Checkpoint, RunPaths, Storage, from_json, to_json
from workers.world import Progress, Stopped, World

__all__ = ["Stopped", "run_attempt"]

_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def run_attempt(
    run_uri: str,
    config: WorldConfig,
    world: int,
    attempt: str,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> dict[str, Any]:
    """Train a world of a run to its end and commit its weights.

    Args:
        run_uri: the run's folder or URI.
        config: of the world.
        world: its index.
        attempt: the name of this attempt's folder.
        stop: asked before every step; once true, the attempt checkpoints and ends.
        report: gets the fields of `workers.world.Progress`.

    Returns:
        The receipt, as `final/receipt.json` holds it.

    Raises:
        Stopped: if `stop` turned true.
        ManyworldsError: what went wrong with settings, data, storage or training.
    """
    return Attempt(run_uri, config, world, attempt).run(stop, report)


class Attempt:
    """The files of one attempt; see `run_attempt`."""

    def __init__(self, run_uri: str, config: WorldConfig, world: int, attempt: str) -> None:
        self._storage = Storage(run_uri)
        self._paths = RunPaths(self._storage)
        self._config = config
        self._world = world
        self._attempt = attempt
        self._last_checkpoint: str | None = None
        self._last_loss: float | None = None

    def run(
        self, stop: Callable[[], bool], report: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Do all that `run_attempt` says."""
        began = time.monotonic()
        with closing(World(self._config, self._world)) as world:
            resumed = self._resume(world)

            def tell(progress: Progress) -> None:
                self._record(progress)
                report(progress.to_dict())

            world.train(stop=stop, report=tell, checkpoint=self._checkpoint)
            return self._hand_in(world, resumed, time.monotonic() - began)

    def _resume(self, world: World) -> Checkpoint | None:
        newest = self._paths.newest_checkpoint(self._world)
        if newest is None:
            return None
        manifest = self._storage.manifest(newest.folder)

        def read(name: str) -> bytes:
            return self._storage.read_committed(newest.folder, name, manifest)

        where = self._storage.where(newest.folder)
        state = from_json(read(_STATE), f"{where}/{_STATE}")
        world.restore(
            parse_tensors(read(_MODEL), f"{where}/{_MODEL}"),
            parse_tensors(read(_OPTIMIZER), f"{where}/{_OPTIMIZER}"),
            state,
        )
        return newest

    def _checkpoint(self, world: World) -> None:
        folder = self._paths.checkpoint(self._world, self._attempt, world.step)
        if folder == self._last_checkpoint:
            return
        self._storage.commit(
            folder,
            {
                _MODEL: tensor_file(world.parameters),
                _OPTIMIZER: tensor_file(world.optimizer_state),
                _STATE: to_json(world.state()),
            },
        )
        # The old one goes only now that the new one counts.
        if self._last_checkpoint:
            self._storage.delete(self._last_checkpoint)
        self._last_checkpoint = folder

    def _record(self, progress: Progress) -> None:
        self._last_loss = progress.loss
        values = progress.to_dict()
        self._storage.write_json(self._paths.progress(self._world, self._attempt), values)
        line = json.dumps(values).encode() + b"\n"
        self._storage.append(self._paths.metrics(self._world, self._attempt), line, ".jsonl")

    def _hand_in(self, world: World, resumed: Checkpoint | None, seconds: float) -> dict[str, Any]:
        folder = self._paths.final(self._world, self._attempt)
        model = self._storage.write_file(f"{folder}/{_MODEL}", tensor_file(world.parameters))
        state = world.state()
        receipt = {
            "world": self._world,
            "attempt": self._attempt,
            "steps": world.step,
            "seconds": round(seconds, 3),
            "resumed_from": resumed.folder if resumed else None,
            "device": state["device"],
            "bf16": state["bf16"],
            "computed_on": state["computed_on"],
            "loss": self._last_loss,
            "bucket_accuracy": world.bucket_accuracy,
            "model_sha256": model.sha256,
        }
        entry = self._storage.write_file(f"{folder}/receipt.json", to_json(receipt))
        self._storage.seal(folder, {_MODEL: model, "receipt.json": entry})
        return receipt


def tensor_file(tensors: dict[str, Tensor]) -> Callable[[Path], None]:
    """Return what writes `tensors` as a safetensors file, in the order of their names."""
    on_cpu = {name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)}

    def write(path: Path) -> None:
        save_file(on_cpu, path)

    return write


def parse_tensors(data: bytes, where: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        StorageError: if it is not one.
    """
    try:
        tensors: dict[str, Tensor] = load_tensors(data)
    except SafetensorError as error:
        raise StorageError(
            f"{where}: expected a safetensors file, found: {error}; restore it, or remove it"
        ) from error
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
