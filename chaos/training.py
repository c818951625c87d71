"""Runs of three small worlds: their data, their settings, and drivers in threads and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chaos.looking import INTERVAL, REPORTS, hashes
from chaos.waiting import wait_for
from orchestrator import api
from orchestrator.config import RunConfig, load
from orchestrator.driving import RunSummary
from orchestrator.views import WorldView
from workers.errors import ManyworldsError

ROOT = Path(__file__).parents[1]
WORLDS = 3
CLASSES, SHARDS, ROWS, GROUP = 4000, 4, 3200, 800
"""Of the data; rows of a shard and of a row group."""
EPOCHS, BATCH = 4, 128
STEPS = 416
ENVIRONMENT = {
    "CHAOS_STEP_SECONDS": "0.012",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "chaos" / "site")]),
}
"""Of the cluster's machines and of commands: every world takes five seconds at least."""
_LONGEST = 240.0
"""Seconds that a training may take."""


def write_shards(folder: Path) -> str:
    """Write short texts with a label each, neither compressed nor with checksums."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(SHARDS):
        labels = rng.integers(0, CLASSES, ROWS)
        words = rng.integers(0, 3000, (ROWS, 2))
        texts = [f"item{k} w{a} w{b}" for k, (a, b) in zip(labels, words, strict=True)]
        table = pa.table({"query": texts, "labels": labels})
        pq.write_table(
            table,
            folder / f"{number}.parquet",
            row_group_size=GROUP,
            compression="none",
            use_dictionary=False,
        )
    return str(folder)


@dataclass(frozen=True)
class Source:
    """The data, the cluster, and what undisturbed worlds come to."""

    folder: Path
    address: str
    hashes: dict[int, str]
    """By world, the sha256 of its weights."""

    @property
    def data(self) -> str:
        """The folder of the shards."""
        return str(self.folder / "data")

    def words(self, run: str | Path, *overrides: str) -> list[str]:
        """Return the settings of a run of three worlds, as on a command line."""
        return [
            f"run={run}",
            f"data.train={self.data}",
            f"data.classes={CLASSES}",
            "data.text=[query]",
            "data.block_rows=1600",
            "partition.buckets=500",
            "features.dimension=20000",
            "model.hidden=[64]",
            f"training.batch_size={BATCH}",
            f"training.epochs={EPOCHS}",
            "training.precision=fp32",
            "runtime.device=cpu",
            "runtime.threads=1",
            f"runtime.checkpoint_steps={INTERVAL}",
            f"runtime.report_steps={REPORTS}",
            f"worlds={WORLDS}",
            f"cluster.address={self.address}",
            "cluster.gpus_per_world=1",
            "cluster.cpus_per_world=1",
            "retry.backoff_seconds=0.1",
            "retry.backoff_cap_seconds=1",
            *overrides,
        ]

    def config(self, run: str | Path, *overrides: str) -> RunConfig:
        """Return the settings of a run of three worlds."""
        return load(None, self.words(run, *overrides))


def prepared(folder: Path, address: str) -> Source:
    """Write the data, and train the worlds in this process, undisturbed."""
    write_shards(folder / "data")
    config = Source(folder, "none", {}).config(folder / "run", "cluster.gpus_per_world=0")
    summary = api.train(config)
    assert summary.done == tuple(range(WORLDS)), summary
    return Source(folder, address, hashes(summary.run, summary.done))


class Training:
    """A driver in a thread beside the test; enter it, and it is gone in the end."""

    def __init__(self, config: RunConfig, *, take_over: bool = False) -> None:
        self.run = config.run
        self.views: Sequence[WorldView] = ()
        """What there was to see of the worlds last."""
        self.told: list[str] = []
        """Every ending and lack that it told, in order, each once."""
        self._call: Callable[[], RunSummary] = lambda: api.train(
            config, listener=self._listen, take_over=take_over
        )
        self._summary: RunSummary | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._drive, name="driver", daemon=True)

    def __enter__(self) -> Training:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            with suppress(ManyworldsError):
                api.stop(self.run, wait=False)
            self._thread.join(60.0)
            assert not self._thread.is_alive(), f"the driver of {self.run} does not end"

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return not self._thread.is_alive()

    def summary(self, seconds: float = _LONGEST) -> RunSummary:
        """Return what came of the run; raises what the driver raised."""
        wait_for("the end of the training", lambda: self.ended, seconds)
        if self._error:
            raise self._error
        assert self._summary
        return self._summary

    def _drive(self) -> None:
        try:
            self._summary = self._call()
        except BaseException as error:
            self._error = error

    def _listen(self, views: Sequence[WorldView]) -> None:
        self.views = views
        for view in views:
            if view.cause and view.cause not in self.told:
                self.told.append(view.cause)


class Command:
    """`manyworlds …` as a process of its own."""

    def __init__(self, output: Path, *words: str, environment: dict[str, str] | None = None):
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli", *words],
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT, **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def code(self, seconds: float = _LONGEST) -> int:
        """Return its exit code once it ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the command does not end; it said:\n{self.output}") from error


@contextmanager
def command(
    output: Path, *words: str, environment: dict[str, str] | None = None
) -> Iterator[Command]:
    """Run `manyworlds` with these words; its process is gone in the end."""
    found = Command(output, *words, environment=environment)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.send_signal(signal.SIGKILL)
            found.process.wait()


def is_there(process: int) -> bool:
    """Return whether a process is there, and no corpse."""
    with suppress(OSError):
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False
