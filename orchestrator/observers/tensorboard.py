"""Curves for TensorBoard: loss, bucket accuracy and rows a second of each world."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.observers.base import CURVES
from orchestrator.observers.beside import Warn
from workers.errors import ConfigError
from workers.storage import Storage

if TYPE_CHECKING:
    from orchestrator.config import RunConfig
    from orchestrator.driving import RunSummary
    from orchestrator.views import WorldView


def folder_for(config: RunConfig, warn: Warn) -> str | None:
    """Return the local folder that a run's curves go to, or None if there shall be none.

    Args:
        config: of the run.
        warn: is told if `auto` can choose none.

    Raises:
        ConfigError: a folder is asked for, but tensorboard is not installed.
    """
    wanted, installed = config.watch.tensorboard, find_spec("tensorboard") is not None
    if wanted is None or (wanted == "auto" and not installed):
        return None
    if not installed:
        raise ConfigError(
            f"watch.tensorboard: expected tensorboard to be installed to write curves to {wanted},"
            " found none; pip install tensorboard, or leave the setting away"
        )
    if wanted != "auto":
        return wanted
    storage = Storage(config.run)
    if storage.is_local:
        return storage.where("tensorboard")
    warn(
        "no curves for TensorBoard: it writes to local disks only, and the run is kept elsewhere;"
        " watch.tensorboard=FOLDER names a local folder, and watch.tensorboard=null is silent"
    )
    return None


class TensorBoard:
    """Writes a run of TensorBoard's for each world, so that their curves lie over each other.

    Args:
        folder: on a local disk; a folder for each world is made in it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._writers: dict[int, Any] = {}
        self._told: dict[int, tuple[int, int]] = {}
        """By world, the attempt and the step that was written last."""

    def begin(self, run: RunConfig) -> None:
        """Do nothing: a world's folder is made once there is something to write."""

    def saw(self, views: Sequence[WorldView]) -> None:
        """Write a point for each world that moved on, and close the files of those that ended."""
        for view in views:
            told = self._told.get(view.world)
            # What is known of a new attempt is at first what the one before it told.
            if view.step is not None and (told is None or view.step != told[1]):
                self._write(view, view.step)
            if view.state not in ("running", "waiting"):
                self._close(view.world)

    def end(self, summary: RunSummary) -> None:
        """Close all files."""
        for world in list(self._writers):
            self._close(world)

    def _write(self, view: WorldView, step: int) -> None:
        writer = self._writer(view, step)
        for name in CURVES:
            if (value := getattr(view, name)) is not None:
                writer.add_scalar(name, value, step)
        self._told[view.world] = view.attempts, step

    def _writer(self, view: WorldView, step: int) -> Any:
        told = self._told.get(view.world)
        if told and told[0] != view.attempts:
            # What an earlier attempt wrote beyond its checkpoint is trained again.
            self._close(view.world)
        if view.world not in self._writers:
            # Slow to import, and only needed from here on.
            from torch.utils.tensorboard import SummaryWriter

            place = str(self._folder / f"world-{view.world:03d}")
            writer: Any = SummaryWriter(place, purge_step=step)
            self._writers[view.world] = writer
        return self._writers[view.world]

    def _close(self, world: int) -> None:
        if writer := self._writers.pop(world, None):
            writer.close()
