"""Settings of a run: keys, defaults, layers, and how mistakes are told."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import presets, schema
from orchestrator.config import (
    IDENTITY,
    SETTINGS,
    ClusterConfig,
    MergeConfig,
    RetryConfig,
    RunConfig,
    keys,
    load,
    override,
    overrides_of,
)
from workers.config import DataConfig, FeaturesConfig
from workers.errors import ConfigError

MINIMUM = ["run=runs/a", "data.train=rows", "data.classes=100000", "data.text=[query]"]
"""The least that a run must be told."""

DEFAULTS = {
    "run": "",
    "worlds": 8,
    "seed": 0,
    "data.train": "",
    "data.validation": None,
    "data.validation_rows": 20_000,
    "data.classes": 0,
    "data.class_names": None,
    "data.text": (),
    "data.indices": None,
    "data.values": None,
    "data.dense": None,
    "data.labels": "labels",
    "data.weight": None,
    "data.block_rows": 131_072,
    "data.on_bad_shard": "fail",
    "data.bad_rows_budget": 0.01,
    "partition.kind": "permutation",
    "partition.buckets": 4096,
    "features.dimension": 262_144,
    "features.word_ngrams": 2,
    "features.char_ngrams": (4, 4),
    "features.dropout": 0.0,
    "model.hidden": (512,),
    "model.activation": "linear",
    "model.loss": "softmax",
    "model.active": 1.0,
    "model.lsh.family": "signs",
    "model.lsh.bits": None,
    "model.lsh.tables": 127,
    "model.lsh.probes": None,
    "model.lsh.candidates": 1,
    "model.lsh.asymmetric": False,
    "model.lsh.shared": False,
    "model.lsh.predict": "dense",
    "model.lsh.narrowest": 1000,
    "model.lsh.rebuild_steps": 16,
    "model.lsh.rebuild_growth": 1.25,
    "optimizer.input_rate": 0.2,
    "optimizer.rate": 0.01,
    "training.epochs": 3,
    "training.batch_size": 1024,
    "training.precision": "auto",
    "runtime.device": "auto",
    "runtime.threads": 0,
    "runtime.checkpoint_steps": 2000,
    "runtime.report_steps": 50,
    "runtime.cache_bytes": 10_000_000_000,
    "runtime.cache_folder": None,
    "cluster.address": "auto",
    "cluster.gpus_per_world": "auto",
    "cluster.cpus_per_world": "auto",
    "cluster.max_parallel": None,
    "cluster.machines": (),
    "cluster.pending_timeout": 600.0,
    "retry.error": 3,
    "retry.out_of_memory": 1,
    "retry.preemption": None,
    "retry.stall_timeout": 900.0,
    "retry.backoff_seconds": 2.0,
    "retry.backoff_cap_seconds": 300.0,
    "budget.gpu_hours": None,
    "merge.min_worlds": None,
    "merge.combiner": "auto",
    "merge.weights": "fp32",
    "merge.lookup": "computed",
    "watch.tensorboard": "auto",
    "watch.observers": (),
    "watch.notify": None,
}
"""The public settings. A change here is a decision: it changes what users have written."""


def value_of(config: RunConfig, key: str) -> object:
    found: object = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def problems_of(overrides: list[str], preset: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(preset, overrides)
    return str(caught.value).splitlines()


def test_keys_and_defaults_are_frozen() -> None:
    config = RunConfig()
    assert {key: value_of(config, key) for key in keys()} == DEFAULTS
    assert keys() == list(DEFAULTS)


def test_default_yaml_says_what_the_dataclasses_say() -> None:
    assert presets.read("default") == RunConfig().to_dict()


def test_default_yaml_explains_every_key() -> None:
    lines = (presets.folder() / "default.yaml").read_text().splitlines()
    settings = [i for i, line in enumerate(lines) if re.match(r"\s*\w+:", line)]
    groups = {key.rpartition(".")[0] for key in DEFAULTS if "." in key}
    unexplained = [lines[i] for i in settings if not lines[i - 1].lstrip().startswith("#")]
    assert len(settings) == len(DEFAULTS) + len(groups)
    assert unexplained == []


@pytest.mark.parametrize("name", [name for name in presets.names() if name != "default"])
def test_every_preset_loads(name: str) -> None:
    read = presets.read(name).get("data", {})
    config = load(name, [word for word in MINIMUM if word.split("=")[0][5:] not in read])
    assert config.problems() == []


def test_amazon_preset_is_the_papers_job() -> None:
    config = load("amazon-50m", ["run=r", "data.train=rows"])
    assert config.data.classes == 49_460_000
    assert config.worlds == 32
    assert config.partition.buckets == 20_000
    assert config.features.dimension == 80_000
    assert config.model.hidden == (2000,)


def test_overrides_win_over_preset_and_preset_over_default(tmp_path: Path) -> None:
    preset = tmp_path / "job.yaml"
    preset.write_text("worlds: 3\ntraining:\n  epochs: 7\n  batch_size: 64\n")
    config = load(str(preset), [*MINIMUM, "training.epochs=9"])
    assert (config.worlds, config.training.epochs, config.training.batch_size) == (3, 9, 64)
    assert config.training.precision == "auto"


@pytest.mark.parametrize(
    ("word", "key", "expected"),
    [
        ("data.text=query", "data.text", ("query",)),
        ("data.text=[title, query]", "data.text", ("title", "query")),
        ("model.hidden=512", "model.hidden", (512,)),
        ("model.hidden=[512,256]", "model.hidden", (512, 256)),
        ("features.char_ngrams=[3,5]", "features.char_ngrams", (3, 5)),
        ("data.train=s3://bucket/a=b/*.parquet", "data.train", "s3://bucket/a=b/*.parquet"),
        ("data.validation=null", "data.validation", None),
        ("data.classes=49_460_000", "data.classes", 49_460_000),
        ("cluster.gpus_per_world=1", "cluster.gpus_per_world", 1.0),
        ("cluster.gpus_per_world=0.25", "cluster.gpus_per_world", 0.25),
        ("cluster.cpus_per_world=4", "cluster.cpus_per_world", 4),
        ("optimizer.rate=1", "optimizer.rate", 1.0),
        ("data={labels: items}", "data.labels", "items"),
        ("data.validation=${data.train}.held", "data.validation", "rows.held"),
    ],
)
def test_overrides_become_typed_values(word: str, key: str, expected: object) -> None:
    found = value_of(load(None, [*MINIMUM, word]), key)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("data.clases=5", "data.classes"),
        ("training.epoch=5", "training.epochs"),
        ("batch_size=5", "training.batch_size"),
        ("optimiser.rate=5", "optimizer.rate"),
        ("world=5", "worlds"),
        ("data={lables: items}", "data.labels"),
    ],
)
def test_typo_gets_the_nearest_key(word: str, suggestion: str) -> None:
    (problem,) = problems_of([*MINIMUM, word])
    assert problem.endswith(f": unknown key; did you mean {suggestion}?")


def test_typo_in_a_preset_names_the_file(tmp_path: Path) -> None:
    preset = tmp_path / "job.yaml"
    preset.write_text("trainig:\n  epochs: 7\n")
    (problem,) = problems_of(MINIMUM, str(preset))
    assert problem == (f"trainig.epochs: unknown key; did you mean training.epochs? (in {preset})")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("worlds=many", "worlds: expected a whole number, found 'many'"),
        ("worlds=2.5", "worlds: expected a whole number, found 2.5"),
        ("worlds=null", "worlds: expected a whole number, found null"),
        ("runtime.threads=true", "runtime.threads: expected a whole number, found True"),
        ("model.loss=hinge", "model.loss: expected softmax or bce, found 'hinge'"),
        ("model.hidden=big", "model.hidden: expected a list such as [3, 5], found 'big'"),
        ("model.hidden=[{}]", "model.hidden: expected a list such as [3, 5], found [{}]"),
        ("model.hidden={a: 1}", "model.hidden: expected a list such as [3, 5], found {'a': 1}"),
        ("model.hidden=[[3]]", "model.hidden: expected a list such as [3, 5], found [[3]]"),
        (f"optimizer.rate={10**400}", f"optimizer.rate: expected a number, found {10**400}"),
        (
            "features.char_ngrams=[3]",
            "features.char_ngrams: expected a list of 2, such as [3, 5], found [3]",
        ),
        (
            "cluster.gpus_per_world=all",
            "cluster.gpus_per_world: expected a number or auto, found 'all'",
        ),
        ("retry.preemption=x", "retry.preemption: expected a whole number or null, found 'x'"),
        ("data=rows", "data: expected settings such as data.train=..., found 'rows'"),
        ("oops", "oops: expected key=value, for example training.epochs=3"),
        (
            "data.text=[query",
            "data.text: expected a YAML value, found '[query';"
            " quote what has brackets, braces or colons",
        ),
    ],
)
def test_wrong_type_is_told_with_what_was_expected(word: str, expected: str) -> None:
    assert problems_of([*MINIMUM, word]) == [expected]


def test_missing_environment_variable_is_told() -> None:
    problems = problems_of(["data.train=${oc.env:MANYWORLDS_NO_SUCH_VARIABLE}"])
    assert len(problems) == 1
    assert problems[0].startswith("data.train: expected a ${...} that has a value, found:")
    assert "MANYWORLDS_NO_SUCH_VARIABLE" in problems[0]


def test_all_problems_are_told_at_once() -> None:
    problems = problems_of(
        [
            "data.clases=5",
            "worlds=many",
            "training.epochs=0",
            "partition.buckets=1",
            "retry.error=0",
        ]
    )
    starts = [problem.split(": ")[0] for problem in problems]
    assert starts == [
        "data.clases",
        "worlds",
        "run",
        "data.train",
        "data",
        "partition.buckets",
        "training.epochs",
        "retry.error",
    ]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_of_no_63_bits_is_refused(seed: int) -> None:
    (problem,) = problems_of([*MINIMUM, f"seed={seed}"])
    assert problem == f"seed: expected 0 to 9,223,372,036,854,775,807, found {seed:,}"


def test_more_buckets_than_classes_are_refused() -> None:
    (problem,) = problems_of([*MINIMUM, "data.classes=1000"])
    assert problem.startswith("partition.buckets: expected at most data.classes = 1,000 buckets")


@pytest.mark.parametrize(
    ("config", "start"),
    [
        (ClusterConfig(gpus_per_world=-1.0), "cluster.gpus_per_world"),
        (ClusterConfig(gpus_per_world=1.5), "cluster.gpus_per_world"),
        (ClusterConfig(cpus_per_world=0), "cluster.cpus_per_world"),
        (ClusterConfig(max_parallel=0), "cluster.max_parallel"),
        (ClusterConfig(machines=("ray.io/market-type",)), "cluster.machines"),
        (ClusterConfig(machines=("",)), "cluster.machines"),
        (ClusterConfig(pending_timeout=0.0), "cluster.pending_timeout"),
        (ClusterConfig(address=""), "cluster.address"),
        (ClusterConfig(address="ray://head:10001"), "cluster.address"),
        (FeaturesConfig(dropout=1.0), "features.dropout"),
        (FeaturesConfig(dropout=-0.1), "features.dropout"),
        (RetryConfig(out_of_memory=0), "retry.out_of_memory"),
        (RetryConfig(stall_timeout=0.0), "retry.stall_timeout"),
        (RetryConfig(backoff_seconds=-1.0), "retry.backoff_seconds"),
        (RetryConfig(backoff_seconds=9.0, backoff_cap_seconds=1.0), "retry.backoff_cap_seconds"),
    ],
)
def test_group_names_the_setting_that_cannot_work(
    config: ClusterConfig | FeaturesConfig | RetryConfig, start: str
) -> None:
    (problem,) = config.problems()
    assert problem.startswith(f"{start}: expected ")


def test_min_worlds_beyond_the_runs_worlds_is_refused() -> None:
    assert MergeConfig(min_worlds=8).problems(worlds=8) == []
    (problem,) = MergeConfig(min_worlds=9).problems(worlds=8)
    assert problem == "merge.min_worlds: expected null or 1 to worlds = 8, found 9"


@pytest.mark.parametrize("name", ["quikstart", "amazon50m"])
def test_unknown_preset_gets_the_nearest_name(name: str) -> None:
    (problem,) = problems_of([], name)
    nearest = "quickstart" if name.startswith("q") else "amazon-50m"
    assert problem.startswith(f"{name}: unknown preset; did you mean {nearest}?")


def test_preset_file_that_is_missing_or_no_mapping_is_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "job.yaml")
    assert problems_of([], missing) == [
        f"{missing}: expected a YAML file of settings, found no such file"
    ]
    Path(missing).write_text("- a\n- b\n")
    assert problems_of([], missing)[0].startswith(f"{missing}: expected `key: value` lines")
    Path(missing).write_text("a: [b\n")
    assert problems_of([], missing)[0].startswith(f"{missing}: expected a YAML file of settings")


def test_parts_of_a_run_give_the_same_config_again() -> None:
    more = ["cluster.gpus_per_world=0.5", "data.on_bad_shard=skip", "data.bad_rows_budget=0.2"]
    config = load("amazon-50m", ["run=r", "data.train=rows", *more])
    assert tuple(config.identity()) == IDENTITY
    assert tuple(config.settings()) == (*SETTINGS, "data")
    assert not set(config.identity()["data"]) & set(config.settings()["data"])
    assert RunConfig.from_parts("r", config.identity(), config.settings()) == config


@given(st.one_of(st.text(), st.lists(st.text()), st.integers(), st.floats(allow_nan=False)))
def test_a_value_is_written_as_it_is_read(value: object) -> None:
    word = schema.to_override("key", value)
    found = schema.from_overrides([word])
    assert (found.values, found.problems) == ({"key": value}, ())


@pytest.mark.parametrize("preset", [None, "quickstart", "amazon-50m"])
def test_overrides_of_a_config_make_it_again(preset: str | None) -> None:
    more = ["data.weight='1e3'", "optimizer.rate=1e-7", "retry.preemption=7", "data.text=['a, b']"]
    config = load(preset, [*MINIMUM, *more])
    words = overrides_of(config)
    assert load(None, words) == config
    assert len(words) == len({word.partition("=")[0] for word in words})
    assert "seed=0" not in words


def test_identity_does_not_change_with_settings() -> None:
    config = load(None, MINIMUM)
    other = override(
        config,
        [
            "worlds=16",
            "runtime.threads=2",
            "cluster.max_parallel=3",
            "retry.error=9",
            "data.on_bad_shard=skip",
            "data.bad_rows_budget=0.5",
        ],
    )
    assert other != config
    assert other.identity() == config.identity()
    assert override(config, ["seed=1"]).identity() != config.identity()


def test_world_config_holds_the_same_groups() -> None:
    config = load(None, [*MINIMUM, "seed=5"])
    world = config.world_config()
    assert world.seed == 5
    assert world.data is config.data
    assert world.validate() is world


def test_config_is_frozen_and_replaceable() -> None:
    config = RunConfig()
    with pytest.raises(FrozenInstanceError):
        config.worlds = 3  # type: ignore[misc]
    assert replace(config, data=DataConfig(train="x")).data.train == "x"


@given(
    st.sampled_from([key for key in DEFAULTS if len(key) > 8 and "pus_per_world" not in key]),
    st.integers(0, 99),
    st.sampled_from("abcdefghijklmnopqrstuvwxyz"),
)
def test_one_wrong_letter_finds_the_key_that_was_meant(key: str, place: int, letter: str) -> None:
    at = place % len(key)
    typo = key[:at] + letter + key[at + 1 :]
    assert schema.nearest(typo, DEFAULTS) == key


def test_settings_that_were_stored_before_there_was_watch_are_read() -> None:
    config = load(None, [*MINIMUM, "watch.notify=env:HOOK"])
    settings = config.settings()
    assert RunConfig.from_parts(config.run, config.identity(), settings) == config
    del settings["watch"]
    older = RunConfig.from_parts(config.run, config.identity(), settings)
    assert older == load(None, MINIMUM)
