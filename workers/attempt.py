"""One attempt at one world of a run: resume, train, checkpoint, hand in the weights.

An attempt writes to its own folder only, so that two of them can never spoil
each other's files. It goes on from the newest committed checkpoint of any
earlier attempt at the same world.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from workers.checkpoints import MODEL, Checkpoints
from workers.config import WorldConfig
from workers.errors import ManyworldsError
from workers.log import AttemptLog
from workers.storage import Checkpoint, RunPaths, Storage, to_json
from workers.tensors import tensor_file
from workers.world import Progress, Stopped, World

__all__ = ["Stopped", "run_attempt"]

_RECEIPT = "receipt.json"

Stop = Callable[[], bool]
Beat = Callable[[], None]
Report = Callable[[dict[str, Any]], None]


def _never() -> bool:
    return False


def run_attempt(
    run_uri: str,
    config: WorldConfig,
    world: int,
    attempt: str,
    *,
    stop: Stop = lambda: False,
    stop_waiting: bool = False,
    report: Report = lambda progress: None,
    beat: Beat = lambda: None,
) -> dict[str, Any]:
    """Train a world of a run to its end and commit its weights.

    Checkpoints, progress and log are written beside the training. What cannot be written of
    them is told in the log and in the progress, and ends nothing; only the weights must be.

    Args:
        run_uri: the run's folder or URI.
        config: of the world.
        world: its index.
        attempt: the name of this attempt's folder.
        stop: asked once before every step; once true, the attempt checkpoints and ends.
        stop_waiting: whether `stop` is asked again and again while rows are waited for, too.
        report: gets the fields of `workers.world.Progress`.
        beat: a sign of life, called after every step, and while checkpoints are read, rows are
            validated and weights are written whenever something moved; from more threads than
            one.

    Returns:
        The receipt, as `final/receipt.json` holds it.

    Raises:
        Stopped: if `stop` turned true.
        ManyworldsError: what went wrong with settings, data, storage or training.
    """
    prompt = stop if stop_waiting else _never
    return Attempt(run_uri, config, world, attempt).run(stop, prompt, report, beat)


class Attempt:
    """The files of one attempt; see `run_attempt`."""

    def __init__(self, run_uri: str, config: WorldConfig, world: int, attempt: str) -> None:
        self._storage = Storage(run_uri)
        self._paths = RunPaths(self._storage)
        self._config = config
        self._world = world
        self._attempt = attempt
        self._log = AttemptLog(self._paths, world, attempt)
        self._last_loss: float | None = None

    def run(self, stop: Stop, stop_waiting: Stop, report: Report, beat: Beat) -> dict[str, Any]:
        """Do all that `run_attempt` says."""
        with closing(self._log):
            self._log.info(
                f"world {self._world}, attempt {self._attempt} began on {platform.node()},"
                f" process {os.getpid()}"
            )
            try:
                receipt = self._train(stop, stop_waiting, report, beat)
            except BaseException as error:
                self._log_end(error)
                raise
            self._log.info(f"done: {receipt['steps']} steps, {receipt['seconds']:.1f} s")
            return receipt

    def _train(self, stop: Stop, stop_waiting: Stop, report: Report, beat: Beat) -> dict[str, Any]:
        began = time.monotonic()
        checkpoints = Checkpoints(self._paths, self._attempt, self._log, beat)
        with (
            closing(World(self._config, self._world, self._dataset())) as world,
            closing(checkpoints),
        ):
            beat()
            resumed = self._resume(world, checkpoints)

            def tell(progress: Progress) -> None:
                report(self._record(progress, checkpoints.trouble))

            try:
                world.train(
                    stop=stop,
                    stop_waiting=stop_waiting,
                    report=tell,
                    checkpoint=checkpoints.offer,
                    beat=beat,
                )
            except Stopped as stopped:
                checkpoints.last(world)
                if checkpoints.trouble:
                    raise Stopped(f"{stopped}; {checkpoints.trouble}") from stopped
                raise
            checkpoints.wait()
            return self._hand_in(world, resumed, beat, time.monotonic() - began)

    def _dataset(self) -> dict[str, Any] | None:
        path = self._paths.dataset
        return self._storage.read_json(path) if self._storage.exists(path) else None

    def _resume(self, world: World, checkpoints: Checkpoints) -> Checkpoint | None:
        self._log.info(f"device: {world.state()['computed_on'][-1]}")
        found = checkpoints.resume(world)
        if found:
            self._log.info(f"resumed from {found.folder}, {world.steps - found.step} steps to go")
        else:
            self._log.info(f"nothing to resume from, {world.steps} steps to go")
        return found

    def _record(self, progress: Progress, trouble: str | None) -> dict[str, Any]:
        self._last_loss = progress.loss
        values = replace(progress, trouble=trouble or self._log.trouble).to_dict()
        self._log.progress(values)
        if progress.epoch_ended:
            accuracy = progress.bucket_accuracy
            found = "not measured" if accuracy is None else f"{100 * accuracy:.1f} %"
            self._log.info(
                f"epoch {progress.epoch + 1} of {self._config.training.epochs} ended at step"
                f" {progress.step}: loss {progress.loss:.4f}, bucket accuracy {found}"
            )
        return values

    def _log_end(self, error: BaseException) -> None:
        if isinstance(error, Stopped):
            self._log.info(str(error))
        elif isinstance(error, ManyworldsError):
            self._log.error(str(error))
        else:
            self._log.error("".join(traceback.format_exception(error)))

    def _hand_in(
        self, world: World, resumed: Checkpoint | None, beat: Beat, seconds: float
    ) -> dict[str, Any]:
        folder = self._paths.final(self._world, self._attempt)
        weights = tensor_file(world.model, beat)
        model = self._storage.write_file(f"{folder}/{MODEL}", weights, beat)
        state = world.state()
        receipt = {
            "world": self._world,
            "attempt": self._attempt,
            "identity": self._config.digest(),
            "steps": world.step,
            "seconds": round(seconds, 3),
            "resumed_from": resumed.folder if resumed else None,
            "device": state["device"],
            "bf16": state["bf16"],
            "computed_on": state["computed_on"],
            "loss": self._last_loss,
            "bucket_accuracy": world.bucket_accuracy,
            "left_out": [asdict(entry) for entry in world.left_out],
            "content_sha256": world.content.digest(),
            "model_sha256": model.sha256,
        }
        content = to_json({"content": world.content.to_dict()})
        small = {"content.json": content, _RECEIPT: to_json(receipt)}
        entries = {n: self._storage.write_file(f"{folder}/{n}", b) for n, b in small.items()}
        self._storage.seal(folder, {MODEL: model, **entries})
        return receipt
