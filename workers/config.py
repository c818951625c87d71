"""What configures one world: frozen dataclasses, checked once, at the edge.

The names here are the names in YAML, on the command line and in the README.
Attribute docstrings are the help texts. `problems()` of each group lists all
that is wrong with it; `WorldConfig.validate()` raises one `ConfigError` with
the problems of all groups together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from workers.errors import ConfigError
from workers.lsh.config import LshConfig

TOLERANCES = ("on_bad_shard", "bad_rows_budget")
"""Settings of `data` that may change while a run lives: a lost shard must not lose the run."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the rows are and what their columns mean."""

    train: str = ""
    """Training shards: a Parquet file, a folder of them, or a glob; any pyarrow.fs URI."""
    validation: str | None = None
    """Held-out shards for bucket accuracy after every epoch; null: none."""
    validation_rows: int = 20_000
    """Rows of `validation` that are looked at, from its beginning."""
    classes: int = 0
    """Number of classes K; labels are integers in [0, K)."""
    class_names: str | None = None
    """Parquet file with columns id, name; null: classes have no names."""
    text: tuple[str, ...] = ()
    """Text columns (string), hashed to n-grams."""
    indices: str | None = None
    """Column of feature ids (list of integers of any range)."""
    values: str | None = None
    """Column of feature values (list of floats) beside `indices`; null: 1 + ln(count)."""
    dense: str | None = None
    """Column of dense vectors (fixed-size list of floats)."""
    labels: str = "labels"
    """Column of class ids (integer, or list of integers)."""
    weight: str | None = None
    """Column of row weights (float); null: all ones."""
    block_rows: int = 131_072
    """Rows that are held in memory and shuffled together."""
    on_bad_shard: Literal["fail", "skip"] = "fail"
    """What a world does with row groups that it cannot train on: `fail`: it stops; `skip`: it
    goes on without them and reports what was left out. May change while a run lives."""
    bad_rows_budget: float = 0.01
    """Share of all rows that `skip` may leave out before the world stops; may change too."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        found = []
        if not self.train:
            found.append("data.train: expected a Parquet file, folder or glob, found nothing")
        if self.classes < 2:
            found.append(
                f"data.classes: expected the number of classes K, at least 2, found {self.classes}"
            )
        if not (self.text or self.indices or self.dense):
            found.append(
                "data: expected at least one input column in data.text, data.indices or data.dense,"
                " found none; for example data.text=[query]"
            )
        if self.values and not self.indices:
            found.append("data.values: expected data.indices beside it, found none")
        for name in ("block_rows", "validation_rows"):
            if getattr(self, name) < 1:
                found.append(f"data.{name}: expected at least 1 row, found {getattr(self, name)}")
        if not 0 <= self.bad_rows_budget < 1:
            found.append(
                "data.bad_rows_budget: expected a share of the rows, from 0 to less than 1,"
                f" found {self.bad_rows_budget}"
            )
        return found

    def columns(self, *, labels: bool = True) -> list[str]:
        """Return the Parquet columns to read, in a fixed order."""
        inputs = [*self.text, self.indices, self.values, self.dense]
        targets = [self.labels, self.weight] if labels else []
        return list(dict.fromkeys(name for name in [*inputs, *targets] if name))


@dataclass(frozen=True, kw_only=True)
class PartitionConfig:
    """How a world maps its K classes to B buckets."""

    kind: Literal["permutation", "hash"] = "permutation"
    """`permutation`: balanced and invertible; `hash`: a mixer, for open-ended ids."""
    buckets: int = 4096
    """Number of buckets B."""

    def problems(self, classes: int) -> list[str]:
        """Return one sentence for each setting that cannot work for K `classes`."""
        if self.buckets < 2:
            return [f"partition.buckets: expected at least 2 buckets, found {self.buckets}"]
        if classes >= 2 and self.buckets > classes:
            return [
                f"partition.buckets: expected at most data.classes = {classes:,} buckets,"
                f" found {self.buckets:,}; MACH hashes many classes into few buckets, so choose"
                f" about {max(2, classes // 8):,}"
            ]
        return []


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """How a row's input becomes at most d sparse features."""

    dimension: int = 262_144
    """Width d of the hashed input. Worth raising with the number of different features: on
    920,000 different strings, 2^20 instead of 2^17 gave a fifth more recall at R = 2."""
    word_ngrams: int = 2
    """Longest word n-gram of text columns: 1 for words, 2 for words and pairs, 0 for none."""
    char_ngrams: tuple[int, int] = (4, 4)
    """Shortest and longest character n-gram of text columns; [0, 0] for none."""
    dropout: float = 0.0
    """Share of a row's features that are left out while training, others in each epoch. At R = 2,
    0.2 brought half a point of P@1 on rows of tldr and debian_depends that were held back, and
    nothing of R@10; at R = 8 on the test rows of debian_depends it brought nothing. On gowalla,
    0.5 cost a third of a point."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        found = []
        if not 2 <= self.dimension < 2**31:
            found.append(
                f"features.dimension: expected 2 to {2**31 - 1:,}, found {self.dimension:,}"
            )
        if not 0 <= self.word_ngrams <= 4:
            found.append(f"features.word_ngrams: expected 0 to 4, found {self.word_ngrams}")
        low, high = self.char_ngrams
        if (low, high) != (0, 0) and not 1 <= low <= high <= 8:
            found.append(
                "features.char_ngrams: expected [shortest, longest] within 1 to 8, or [0, 0],"
                f" found {[low, high]}"
            )
        if not 0 <= self.dropout < 1:
            found.append(
                f"features.dropout: expected a share, from 0 to less than 1, found {self.dropout}"
            )
        if self.word_ngrams == 0 and (low, high) == (0, 0):
            found.append("features: expected word_ngrams or char_ngrams, found neither")
        return found


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The bucket classifier of one world."""

    hidden: tuple[int, ...] = (512,)
    """Widths of the hidden layers; the first is the width h of the embedding."""
    activation: Literal["linear", "relu"] = "linear"
    """Of the hidden layers. With `linear`, one hidden layer is a factorised linear classifier:
    up to a tenth more recall than `relu` on api_search and omw, where a class has few rows, and
    level on tldr. On debian_depends, of five labels a row, `relu` has one point of P@1 more."""
    loss: Literal["softmax", "bce"] = "softmax"
    """`softmax`: cross-entropy against the row's labels with equal shares; `bce`: a yes or no
    for every bucket."""
    active: float = 1.0
    """Share of the neurons of wide layers that a row computes in training: those that hash tables
    find for it. For CPUs; 1: all of them, without tables."""
    lsh: LshConfig = field(default_factory=LshConfig)
    """How they are found."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        found = self.lsh.problems()
        if not self.hidden or min(self.hidden) < 1:
            found.append(
                "model.hidden: expected one or more layer widths of at least 1,"
                f" found {list(self.hidden)}"
            )
        if not 0 < self.active <= 1:
            found.append(
                f"model.active: expected a share, above 0 and up to 1, found {self.active}"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Row-wise Adagrad for the sparse input layer, Adam for all other parameters.

    Both rates fall to zero in a line. Searched at R = 2 on rows that were held back (`make
    bench-search` repeats it): with a `rate` of 0.01 instead of 0.002, P@1 / R@10 went from 30.7 /
    53.8 to 32.0 / 55.0 on tldr and from 12.5 / 37.1 to 13.9 / 41.1 on api_search; 0.02 is past the
    best. On gowalla, places that users visited, it cost a point of R@20 at R = 8. An `input_rate`
    of 0.05 learns too little, one of 0.8 loses recall to what it remembers: 2.5 points of R@10 on
    tldr.
    """

    input_rate: float = 0.2
    """Learning rate of the row-wise Adagrad on the input layer."""
    rate: float = 0.01
    """Learning rate of Adam on all other parameters."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        return [
            f"optimizer.{name}: expected a positive number, found {value}"
            for name, value in asdict(self).items()
            if not value > 0
        ]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long a world trains and on what batches."""

    epochs: int = 3
    """Passes over the data."""
    batch_size: int = 1024
    """Rows a step."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products; master weights are fp32 always. `auto`: bf16 where the device has it."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        return [
            f"training.{name}: expected at least 1, found {value}"
            for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size))
            if value < 1
        ]


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """What may differ between attempts at a world without changing its weights."""

    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    threads: int = 0
    """Compute threads; 0: one for each CPU that the process may use."""
    checkpoint_steps: int = 2000
    """Steps between checkpoints: what a killed world loses at most, with those of one upload."""
    report_steps: int = 50
    """Steps between progress reports."""
    cache_bytes: int = 10_000_000_000
    """Disk space for copies of remote shards on each machine, which its worlds share; the shards
    that do not fit are read where they are; 0: no copies."""
    cache_folder: str | None = None
    """Where those copies are kept; null: under the system's folder for temporary files."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        found = []
        if self.device not in ("auto", "cpu") and not self.device.startswith("cuda"):
            found.append(f"runtime.device: expected auto, cpu or cuda, found {self.device}")
        if self.threads < 0:
            found.append(f"runtime.threads: expected 0 or more, found {self.threads}")
        for name in ("checkpoint_steps", "report_steps"):
            if getattr(self, name) < 1:
                found.append(f"runtime.{name}: expected at least 1, found {getattr(self, name)}")
        if self.cache_bytes < 0:
            found.append(f"runtime.cache_bytes: expected 0 or more, found {self.cache_bytes}")
        return found


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """All that one world needs to know, its index apart."""

    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    seed: int = 0
    """Seed of the whole run; each world derives its own from it and its index."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work, over all groups."""
        seeds = []
        if not 0 <= self.seed < 2**63:
            seeds.append(f"seed: expected 0 to {2**63 - 1:,}, found {self.seed:,}")
        return [
            *seeds,
            *self.data.problems(),
            *self.partition.problems(self.data.classes),
            *self.features.problems(),
            *self.model.problems(),
            *self.optimizer.problems(),
            *self.training.problems(),
            *self.runtime.problems(),
        ]

    def validate(self) -> WorldConfig:
        """Return self, or raise one `ConfigError` that names every problem."""
        if found := self.problems():
            raise ConfigError("\n".join(found))
        return self

    def digest(self) -> str:
        """Return the sha256 of what the weights depend on: all but `runtime` and tolerances."""
        identity = self.to_dict()
        del identity["runtime"]
        for name in TOLERANCES:
            del identity["data"][name]
        return identity_digest(identity)

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts of plain values, tuples as lists: ready for JSON and YAML.

        Without what makes no difference: see `leave_out_unused`.
        """
        values = {
            key: {name: _plain(item) for name, item in value.items()}
            if isinstance(value, dict)
            else value
            for key, value in asdict(self).items()
        }
        leave_out_unused(values)
        return values


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Return the sha256 of a run's identity, plain values, over canonical JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def leave_out_unused(values: dict[str, Any]) -> None:
    """Leave out of a world's settings how it hashes neurons, if it does not.

    So what a run is, and its digest, does not depend on settings that nothing depends on.
    """
    if values["model"]["active"] == 1:
        del values["model"]["active"], values["model"]["lsh"]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
