"""All that a report tells of a run, as plain values; from its storage alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from orchestrator import api, evaluations
from orchestrator.api import RunStatus
from orchestrator.config import RunConfig, overrides_of
from orchestrator.evaluations import KeptEvaluation
from orchestrator.observers.settings import may_be_secret
from orchestrator.plan import parameters
from orchestrator.report.curves import Curve, Told, curves, median, read
from orchestrator.report.loads import BucketLoads, bucket_loads
from orchestrator.report.times import Timeline, rates, throughput, timeline
from orchestrator.run import Run
from workers.errors import StorageError, StorageUnreachable

MOST_POINTS, FEWEST_POINTS = 200, 40
"""Of a curve."""
_POINTS = 40_000
"""Of all curves of a chart together."""
_BINS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """A value of all worlds over their steps."""

    worlds: tuple[Curve, ...]
    median: Curve | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an ensemble of the run was measured to be, all combiners together."""

    newest: KeptEvaluation
    metrics: Mapping[tuple[str, int], Mapping[str, float]]
    """By combiner and number of worlds, over the newest evaluations of the same ensemble and
    rows."""
    served: bool
    """Whether that ensemble is the one that the run serves."""

    @property
    def combiners(self) -> list[str]:
        """The combiners, sorted."""
        return sorted({name for name, _ in self.metrics})

    def whole(self, combiner: str) -> tuple[int, Mapping[str, float]]:
        """Return the most worlds that a combiner was measured with, and the metrics of those."""
        worlds = max(count for name, count in self.metrics if name == combiner)
        return worlds, self.metrics[combiner, worlds]

    @property
    def shown(self) -> list[str]:
        """Precision at the lowest rank, and recall at the three lowest others."""
        names = {name for metrics in self.metrics.values() for name in metrics}
        ranks = sorted({int(k) for _, _, k in (n.partition("@") for n in names) if k.isdecimal()})
        return [
            n
            for n in (*(f"P@{k}" for k in ranks[:1]), *(f"R@{k}" for k in ranks[1:4]))
            if n in names
        ]

    @property
    def best(self) -> tuple[str, int]:
        """The combiner with the best first metric over all worlds, and how many those are."""
        key = self.shown[0] if self.shown else ""
        name = max(self.combiners, key=lambda one: self.whole(one)[1].get(key, 0.0))
        return name, self.whole(name)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a report tells of a run."""

    made_at: datetime
    status: RunStatus
    rows: int | None
    """Of the training data; None: not looked at yet."""
    shards: int | None
    parameters: int
    """Weights and biases of one world."""
    when: Timeline
    throughput: tuple[tuple[float, float, float], ...]
    """From and to seconds on the time line, and the rows a second of all worlds."""
    rates: Mapping[int, float]
    """By world, the median of its rows a second."""
    losses: Learning
    accuracies: Learning
    loads: BucketLoads
    measured: Measured | None
    """None: `manyworlds evaluate` kept nothing."""
    command: tuple[str, ...]
    """The words that train this run, without the program's name, and without what may be secret."""
    damage: tuple[str, ...]
    """What could not be read, in words."""

    @property
    def config(self) -> RunConfig:
        """All settings of the run."""
        return self.status.config

    def worlds(self, state: str) -> list[int]:
        """Return the worlds in a state of `WorldView.state`."""
        return [view.world for view in self.status.views if view.state == state]


def gather(uri: str, now: datetime) -> Facts:
    """Return all that a report tells of the run at `uri`, as of `now`.

    Metrics and evaluations that were altered are left out, and told in `damage`.

    Raises:
        RunError: there is no such run.
        StorageError: a file that says how far the run is was altered.
        StorageUnreachable: nothing is known.
    """
    status = api.status(uri)
    run, config = Run.open(uri), status.config
    told = read(run, [(s.index, a.name) for s in status.states for a in s.attempts])
    when = timeline(status.states, told, now=now, driven=status.driven)
    edges, total = throughput(when, told, _BINS)
    most = min(MOST_POINTS, max(FEWEST_POINTS, _POINTS // config.worlds))
    measured, unread = _measured(run, status.ensemble)
    rows, shards = _data(run.dataset())
    return Facts(
        made_at=now,
        status=status,
        rows=rows,
        shards=shards,
        parameters=parameters(config),
        when=when,
        throughput=tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), total.tolist(), strict=True)),
        rates=rates(told),
        losses=_learning(told, "losses", most),
        accuracies=_learning(told, "accuracies", most),
        loads=bucket_loads(config.partition, config.data.classes, config.seed),
        measured=measured,
        command=("train", *overrides_of(_public(config))),
        damage=(*(line for one in told for line in one.damage), *unread),
    )


def command(words: Sequence[str]) -> str:
    """Return `manyworlds` and words as a shell takes them."""
    return shlex.join(["manyworlds", *words])


def _public(config: RunConfig) -> RunConfig:
    if not may_be_secret(config.watch.notify):
        return config
    return replace(config, watch=replace(config.watch, notify=None))


def _learning(told: Sequence[Told], value: str, most: int) -> Learning:
    worlds = curves(told, value, most)
    return Learning(worlds=tuple(worlds), median=median(worlds, MOST_POINTS))


def _measured(run: Run, ensemble: str | None) -> tuple[Measured | None, list[str]]:
    try:
        kept = evaluations.kept(run.storage)
    except StorageUnreachable:
        raise
    except StorageError as error:
        return None, [str(error)]
    kept = [one for one in kept if one.metrics]
    if not kept:
        return None, []
    newest = kept[-1]
    same = [one for one in kept if _subject(one) == _subject(newest)]
    metrics = {key: values for one in same for key, values in one.metrics.items()}
    served = (ensemble or "").rpartition("/")[2].partition("?")[0] == newest.ensemble
    return Measured(newest=newest, metrics=metrics, served=served), []


def _subject(one: KeptEvaluation) -> tuple[str, str, int]:
    return one.ensemble, one.data, one.rows


def _data(dataset: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the rows and the shards of the training data, as far as the run keeps them."""
    print_ = dataset.get("fingerprint")
    if not isinstance(print_, dict):
        return None, None
    rows, shards = print_.get("rows"), print_.get("shards")
    return (
        rows if type(rows) is int else None,
        len(shards) if isinstance(shards, list) else None,
    )
