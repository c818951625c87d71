"""The settings of a run: the schema, its layers, and what is wrong with them.

A run's settings are the settings of one world (`workers.config`) and, around
them, how many worlds there are, where they run, what is tried again and how
they are merged. `load` reads them in layers, the later over the earlier:
`conf/default.yaml`, a preset, `key=value` overrides. Attribute docstrings are
the help texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from orchestrator import labels, presets, schema
from orchestrator.observers.settings import WatchConfig
from workers.config import (
    TOLERANCES,
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    OptimizerConfig,
    PartitionConfig,
    RuntimeConfig,
    TrainingConfig,
    WorldConfig,
    leave_out_unused,
)
from workers.errors import ConfigError

IDENTITY = ("data", "partition", "features", "model", "optimizer", "training", "seed")
"""What makes a run this run: other values here mean another run."""
SETTINGS = ("worlds", "runtime", "cluster", "retry", "budget", "merge", "watch")
"""What may change while a run lives, with the tolerances of `data`."""
MOST_WORLDS = 1000


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where worlds run and how many at a time."""

    address: str = "auto"
    """Ray cluster: `auto` (the one that `ray start` started on this machine or that RAY_ADDRESS
    names, else a new local one), `local` (always a new local one), or HOST:PORT; `none`: no Ray,
    worlds one after the other in this process."""
    gpus_per_world: float | Literal["auto"] = "auto"
    """GPUs of each world; below 1 several worlds share one, 0 runs on CPUs. `auto`: 1 where the
    cluster has GPUs when the run begins, else 0."""
    cpus_per_world: int | Literal["auto"] = "auto"
    """CPUs of each world. `auto`: a fair share of a node for each world that fits on it."""
    max_parallel: int | None = None
    """Worlds that run at the same time at most; null: as many as fit. So many are asked for, also
    while there is no room for them: that is what an autoscaler goes by."""
    machines: tuple[str, ...] = ()
    """Which machines worlds run on, by labels, the first choice first; none: any."""
    pending_timeout: float = 600.0
    """Seconds to wait while not one world can be placed, before the run gives up."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        found = []
        gpus, cpus = self.gpus_per_world, self.cpus_per_world
        if not self.address:
            found.append("cluster.address: expected auto, local, none or an address, found nothing")
        if self.address.startswith("ray://"):
            found.append(
                f"cluster.address: expected auto, local, none or HOST:PORT, found {self.address};"
                " Ray Client cannot tell machines that leave: run the driver on the cluster"
            )
        if gpus != "auto" and not (0 <= gpus < 1 or (gpus >= 1 and gpus == int(gpus))):
            found.append(
                "cluster.gpus_per_world: expected auto, 0, a fraction below 1 or a whole number,"
                f" found {gpus}"
            )
        if cpus != "auto" and cpus < 1:
            found.append(f"cluster.cpus_per_world: expected auto or at least 1, found {cpus}")
        if self.max_parallel is not None and self.max_parallel < 1:
            found.append(
                f"cluster.max_parallel: expected null or at least 1, found {self.max_parallel}"
            )
        wrong = [problem for choice in self.machines if (problem := labels.problem_of(choice))]
        found += [f"cluster.machines: {problem}" for problem in wrong[:1]]
        if not self.pending_timeout > 0:
            found.append(
                "cluster.pending_timeout: expected a positive number of seconds,"
                f" found {self.pending_timeout}"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """How often a world is tried again: ends in a row without a new checkpoint in between."""

    error: int = 3
    """Attempts that an exception or a vanished process may end before the world counts as
    failed."""
    out_of_memory: int = 1
    """Attempts that may run out of memory before the world counts as failed."""
    preemption: int | None = None
    """Attempts that may lose their machine before the world counts as failed; null: any number."""
    stall_timeout: float = 900.0
    """Seconds without a step or any other sign of life after which an attempt is killed; counts
    as an error."""
    backoff_seconds: float = 2.0
    """Wait before the second attempt; it doubles with each further one."""
    backoff_cap_seconds: float = 300.0
    """Longest wait between two attempts."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        found = []
        for name in ("error", "out_of_memory", "preemption"):
            count = getattr(self, name)
            if count is not None and count < 1:
                found.append(f"retry.{name}: expected at least 1 attempt, found {count}")
        if not self.stall_timeout > 0:
            found.append(
                "retry.stall_timeout: expected a positive number of seconds,"
                f" found {self.stall_timeout}"
            )
        if self.backoff_seconds < 0:
            found.append(f"retry.backoff_seconds: expected 0 or more, found {self.backoff_seconds}")
        if self.backoff_cap_seconds < self.backoff_seconds:
            found.append(
                "retry.backoff_cap_seconds: expected at least retry.backoff_seconds ="
                f" {self.backoff_seconds}, found {self.backoff_cap_seconds}"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """What a run may cost."""

    gpu_hours: float | None = None
    """GPU-hours of all attempts from which on no more begin, while those that run go on to their
    end; on CPUs hours of worlds; null: no cap."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        if self.gpu_hours is not None and not self.gpu_hours > 0:
            return [f"budget.gpu_hours: expected null or a positive number, found {self.gpu_hours}"]
        return []


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """How finished worlds become one ensemble."""

    min_worlds: int | None = None
    """Finished worlds that an ensemble needs; null: all."""
    combiner: Literal["auto", "mean", "log", "min", "median"] = "auto"
    """How the worlds' bucket scores become a class score; `auto`: the one that measured best
    for the loss."""
    weights: Literal["fp32", "bf16", "int8"] = "fp32"
    """What the ensemble stores its weights in; `int8` with a scale for each row."""
    lookup: Literal["computed", "stored"] = "computed"
    """Whether the ensemble stores every class's buckets, K * R of 2 bytes each (4 if B is above
    65,536): answers come sooner than if they are computed for each class that is looked at."""

    def problems(self, worlds: int) -> list[str]:
        """Return one sentence for each setting that cannot work for a run of `worlds`."""
        if self.min_worlds is not None and not 1 <= self.min_worlds <= max(1, worlds):
            return [
                f"merge.min_worlds: expected null or 1 to worlds = {worlds},"
                f" found {self.min_worlds}"
            ]
        return []


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run."""

    run: str = ""
    """Where the run is kept: a folder, or a URI of an object store (s3://bucket/name)."""
    worlds: int = 8
    """Number of worlds R."""
    seed: int = 0
    """Seed of the whole run; each world derives its own from it and its index."""
    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work, over all groups."""
        found = []
        if not self.run:
            found.append(
                "run: expected a folder or URI to keep the run in, found nothing;"
                " for example run=runs/first"
            )
        if not 1 <= self.worlds <= MOST_WORLDS:
            found.append(f"worlds: expected 1 to {MOST_WORLDS}, found {self.worlds}")
        return [
            *found,
            *self.world_config().problems(),
            *self.cluster.problems(),
            *self.retry.problems(),
            *self.budget.problems(),
            *self.merge.problems(self.worlds),
            *self.watch.problems(),
        ]

    def validate(self) -> RunConfig:
        """Return self, or raise one `ConfigError` that names every problem."""
        if found := self.problems():
            raise ConfigError("\n".join(found))
        return self

    def world_config(self) -> WorldConfig:
        """Return what each world of this run needs to know."""
        return WorldConfig(**{item.name: getattr(self, item.name) for item in fields(WorldConfig)})

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts of plain values, tuples as lists: ready for JSON and YAML."""
        values: dict[str, Any] = schema.plain(asdict(self))
        return values

    def identity(self) -> dict[str, Any]:
        """Return what makes this run this run, as plain values."""
        values = self.to_dict()
        for name in TOLERANCES:
            del values["data"][name]
        leave_out_unused(values)
        return {name: values[name] for name in IDENTITY}

    def settings(self) -> dict[str, Any]:
        """Return what may change while the run lives, as plain values."""
        values = self.to_dict()
        tolerances = {name: values["data"][name] for name in TOLERANCES}
        return {**{name: values[name] for name in SETTINGS}, "data": tolerances}

    @staticmethod
    def from_parts(uri: str, identity: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
        """Return the config of the run at `uri` from its stored `identity` and `settings`.

        Raises:
            ConfigError: a key or a value in them is none of this version's.
        """
        stored = f"the stored settings of {uri}"
        parts = ({"run": uri, **identity}, settings)
        return _build([schema.Layer(stored, part) for part in parts])


def keys() -> list[str]:
    """Return the dotted name of every setting, in the order of the schema."""
    return list(schema.leaves(RunConfig()))


def load(preset: str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the settings of a preset with `key=value` overrides, checked.

    Args:
        preset: a name from `conf/`, or the path of a YAML file; None: the defaults.
        overrides: dotted keys with YAML values, such as `data.text=[query]`.

    Raises:
        ConfigError: with one line for each problem of all of them together.
    """
    layers = [schema.Layer("default.yaml", presets.read("default"))]
    if preset is not None and preset != "default":
        layers.append(schema.Layer(preset, presets.read(preset)))
    return _build([*layers, schema.from_overrides(overrides)]).validate()


def override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return `config` with `key=value` overrides, checked.

    Raises:
        ConfigError: with one line for each problem of all of them together.
    """
    layers = [schema.Layer("", config.to_dict()), schema.from_overrides(overrides)]
    return _build(layers).validate()


def overrides_of(config: RunConfig, keys: Sequence[str] | None = None) -> list[str]:
    """Return the `key=value` words that say what `config` has for some keys.

    Args:
        config: the settings.
        keys: dotted; None: those that make `config` out of the defaults: `load(None, words)`.
    """
    values = schema.values(config)
    if keys is None:
        usual = schema.values(RunConfig())
        keys = [key for key, value in values.items() if value != usual[key]]
    return [schema.to_override(key, values[key]) for key in keys]


def given(overrides: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Return the defaults with `key=value` overrides, unchecked together, and the keys in them.

    Raises:
        ConfigError: with one line for each key or value that is none.
    """
    layer = schema.from_overrides(overrides)
    config = schema.made(RunConfig, [layer])
    return config, list(dict(schema.dotted(layer.values, keys())))


def _build(layers: Sequence[schema.Layer]) -> RunConfig:
    """Return the layers merged, or raise every problem of them and of what they give."""
    built = schema.build(RunConfig, layers)
    if built.value is not None and not built.problems:
        return built.value
    explained = tuple(f"{key}:" for key in built.suspects)
    others = built.value.problems() if built.value is not None else []
    raise ConfigError("\n".join([*built.problems, *_without(others, explained)]))


def _without(problems: Sequence[str], prefixes: tuple[str, ...]) -> list[str]:
    return [problem for problem in problems if not problem.startswith(prefixes)]
