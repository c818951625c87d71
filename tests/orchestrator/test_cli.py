"""The command line: its verbs, what they print, and their exit codes."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from orchestrator import api, display
from orchestrator.cli import arguments, main
from orchestrator.cli.arguments import parse, parser
from orchestrator.config import load
from orchestrator.ensemble.artefact import LOOKUPS
from orchestrator.ensemble.ensemble import MODES
from orchestrator.views import WorldView
from tests.orchestrator.command import Ended, manyworlds
from workers.errors import ConfigError, DataError, RunError
from workers.precision import PRECISIONS

CLASSES = 60
SETTINGS = [
    "data.text=[query]",
    f"data.classes={CLASSES}",
    "partition.buckets=16",
    "features.dimension=1024",
    "model.hidden=[16]",
    "training.batch_size=64",
    "training.epochs=4",
    "runtime.threads=1",
    "worlds=3",
    "cluster.address=none",
]

OPTIONS = {
    "prepare": [],
    "plan": [
        "--calibrate",
        "--confusion",
        "--deviation",
        "--features",
        "--json",
        "--machines",
        "--rows",
        "--target-hours",
    ],
    "train": ["--detach", "--dry-run", "--runtime-env", "--submit", "--take-over"],
    "resume": ["--detach", "--runtime-env", "--submit", "--take-over", "--worlds"],
    "status": ["--attempts", "--every", "--json", "--watch"],
    "logs": ["--attempt", "--lines", "--world"],
    "stop": ["--no-wait"],
    "grow": ["--detach", "--runtime-env", "--submit", "--take-over"],
    "clean": ["--dry-run"],
    "merge": ["--lookup", "--min-worlds", "--weights"],
    "evaluate": ["--k"],
    "predict": ["--json", "--k", "--mode"],
    "serve": [],
    "report": [],
    "doctor": [],
}
"""The public verbs and their options. A change here is a decision."""


def rows(count: int, classes: int = CLASSES) -> pa.Table:
    rng = np.random.default_rng(count)
    labels = rng.integers(0, classes, count)
    words = [f"word{3 * label + rng.integers(3)} word{rng.integers(180)}" for label in labels]
    return pa.table({"query": words, "labels": pa.array(labels)})


@dataclass(frozen=True)
class Site:
    """Data, and a run that was trained on it by the command line."""

    folder: Path
    settings: list[str]
    run: str
    trained: Ended


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    pq.write_table(rows(600), folder / "train.parquet")
    pq.write_table(rows(50), folder / "held-out.parquet")
    names = pa.table({"id": range(CLASSES), "name": [f"thing {i}" for i in range(CLASSES)]})
    pq.write_table(names, folder / "names.parquet")
    settings = [
        *SETTINGS,
        f"data.train={folder / 'train.parquet'}",
        f"data.validation={folder / 'held-out.parquet'}",
        f"data.class_names={folder / 'names.parquet'}",
    ]
    run = str(folder / "run")
    return Site(folder, settings, run, manyworlds("train", f"run={run}", *settings))


def test_verbs_and_options_are_frozen() -> None:
    (verbs,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    found = {
        verb: sorted(word for action in made._actions for word in action.option_strings)
        for verb, made in verbs.choices.items()
    }
    assert found == {verb: sorted(["--help", "-h", *words]) for verb, words in OPTIONS.items()}
    assert list(verbs.choices) == list(OPTIONS)


def test_choices_are_those_of_the_packages_that_make_them() -> None:
    assert tuple(MODES) == arguments.MODES
    assert arguments.WEIGHTS == PRECISIONS
    assert arguments.LOOKUPS == LOOKUPS


def test_help_needs_none_of_the_heavy_packages() -> None:
    code = """
import contextlib, sys
from orchestrator.cli import arguments, main
with contextlib.suppress(SystemExit):
    main(["--help"])
heavy = {"numba", "omegaconf", "pyarrow", "ray", "rich", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert all(verb in ended.stdout for verb in OPTIONS)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--dry-run", "quickstart", "seed=1"],
        ["train", "quickstart", "--dry-run", "seed=1"],
        ["train", "quickstart", "seed=1", "--dry-run"],
    ],
)
def test_options_may_stand_anywhere(words: list[str]) -> None:
    arguments = parse(words)
    assert (arguments.words, arguments.dry_run) == (("quickstart", "seed=1"), True)


def test_lists_of_numbers_are_taken_apart() -> None:
    assert parse(["resume", "r", "--worlds", "7, 3"]).worlds == (3, 7)
    assert parse(["evaluate", "r", "--k", "10,1"]).k == (1, 10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data.train=x"], "settings have no dashes: data.train=x"),
        (["train", "--dryrun"], "unknown option --dryrun"),
        (["resume", "r", "--worlds", "a"], "expected world numbers such as 3,7, found 'a'"),
        (["merge", "r", "--min-worlds", "0"], "expected a whole number from 1, found '0'"),
        (["logs", "r", "--world", "-1"], "expected the number of a world, found '-1'"),
        (["logs", "r", "--lines", "0"], "expected a whole number from 1, found '0'"),
        (["shrink", "r"], "invalid choice: 'shrink'"),
    ],
)
def test_wrong_options_end_with_a_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_train_trains_and_merges(site: Site) -> None:
    assert site.trained.code == 0, site.trained.err
    assert "3 of 3 worlds done" in site.trained.out
    assert f"merged into {site.run}/ensembles/" in site.trained.out
    assert site.trained.next_commands == [
        ["predict", site.run, "a query in words"],
        ["evaluate", site.run, f"data={site.folder / 'held-out.parquet'}"],
        ["clean", site.run, "--dry-run"],
    ]


def test_every_next_command_runs(site: Site) -> None:
    ended = [manyworlds(*words) for words in site.trained.next_commands]
    assert [(run.code, run.err) for run in ended] == [(0, "")] * 3


def test_train_again_leaves_finished_worlds_alone(site: Site) -> None:
    before = api.status(site.run)
    ended = manyworlds("train", f"run={site.run}", *site.settings)
    assert ended.code == 0
    assert api.status(site.run) == before


def test_train_of_other_settings_on_the_same_run_is_refused(site: Site) -> None:
    ended = manyworlds("train", f"run={site.run}", *site.settings, "training.epochs=5")
    assert ended.code == 2
    assert "training.epochs: the run has 4, found 5" in ended.err
    assert "Traceback" not in ended.err


def test_dry_run_says_what_it_takes_and_writes_nothing(site: Site, tmp_path: Path) -> None:
    run = tmp_path / "planned"
    ended = manyworlds("train", f"run={run}", *site.settings, "--dry-run")
    assert ended.code == 0
    said = dict(text.split(maxsplit=1) for text in ended.out.splitlines()[:9])
    size = os.path.getsize(site.folder / "train.parquet")
    parameters = 1024 * 16 + 16 + 16 * 16 + 16
    assert said == {
        "run": str(run),
        "worlds": "3, one after the other in this process",
        "classes": "60 in 16 buckets, 3.8 a bucket",
        "parameters": f"{parameters:,} a world, {3 * parameters:,} in all",
        "memory": said["memory"],
        "data": f"600 rows, {size / 1000:.1f} kB",
        "read": f"at most {12 * size / 1000:.1f} kB: 4 epochs of 3 worlds",
        "steps": "40 a world, of 64 rows",
        "ensemble": f"about {12 * parameters / 1000:.1f} kB",
    }
    assert said["memory"].endswith(" MB a world, and half a gigabyte for Python and its libraries")
    assert ended.next_commands[0] == ["train", f"run={run}", *site.settings]
    assert not run.exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("cluster.gpus_per_world=auto", "a GPU each where the cluster has GPUs, else its CPUs"),
        ("cluster.gpus_per_world=0", "on CPUs"),
        ("cluster.gpus_per_world=0.5", "0.5 GPU each"),
        ("cluster.cpus_per_world=4", "4 CPUs each"),
        ("cluster.max_parallel=2", "2 at a time at most"),
        ("cluster.machines=[a=b,a=!c]", "on machines with a=b, else a=!c"),
        ("cluster.address=local", "on Ray at address local"),
    ],
)
def test_dry_run_says_where_worlds_go(site: Site, setting: str, words: str) -> None:
    settings = [*site.settings, "cluster.address=auto", setting]
    ended = manyworlds("train", "run=r", *settings, "--dry-run")
    assert words in ended.out.splitlines()[1]


def test_all_problems_of_the_settings_are_told_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = manyworlds("train", f"run={run}", "data.clases=9", "worlds=0", "training.epoch=1")
    assert (ended.code, ended.out) == (2, "")
    assert "data.clases: unknown key; did you mean data.classes?" in ended.err
    assert "training.epoch: unknown key; did you mean training.epochs?" in ended.err
    assert "worlds: expected 1 to 1000, found 0" in ended.err
    assert not run.exists()


def test_two_presets_are_refused() -> None:
    ended = manyworlds("train", "quickstart", "amazon-50m")
    assert ended.code == 2
    assert "expected one preset and key=value settings, found quickstart, amazon-50m" in ended.err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.labels=clicks", "expected a column 'clicks'"),
        ("data.train={folder}/none.parquet", "none.parquet: expected a Parquet file"),
        ("data.validation={folder}/none.parquet", "none.parquet: expected a Parquet file"),
        ("data.validation={folder}/names.parquet", "names.parquet: expected a column 'query'"),
        ("data.class_names={folder}/train.parquet", "train.parquet: expected columns id and name"),
        ("data.classes=61", "expected 61 class names, one for each of data.classes, found 60"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["train", "dry run"])
def test_data_is_looked_at_before_a_run_is_made(
    site: Site, tmp_path: Path, setting: str, message: str, more: list[str]
) -> None:
    run = tmp_path / "run"
    wrong = setting.format(folder=site.folder)
    ended = manyworlds("train", f"run={run}", *site.settings, wrong, *more)
    assert ended.code == 2
    assert message in ended.err
    assert not (run / "identity.yaml").exists()


def test_failed_worlds_give_exit_code_1_and_their_cause(site: Site, tmp_path: Path) -> None:
    run, data = str(tmp_path / "run"), tmp_path / "bad.parquet"
    pq.write_table(rows(100, classes=CLASSES + 9), data)
    ended = manyworlds("train", f"run={run}", *site.settings, f"data.train={data}", "worlds=2")
    assert ended.code == 1
    assert "0 of 2 worlds done" in ended.out
    assert "world 0 failed: " in ended.out
    assert "expected labels in [0, 60)" in ended.out
    assert "not merged" in ended.out
    assert ended.next_commands == [
        ["status", run, "--attempts"],
        ["logs", run, "--world", "0"],
        ["resume", run],
    ]


def test_worlds_can_be_resumed_one_by_one_and_merged_in_part(site: Site, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert interrupted(site.settings, run, when="pending").code == 130
    again = manyworlds("resume", run, "--worlds", "1", "retry.error=5")
    assert again.code == 0
    assert again.next_commands == [
        ["status", run, "--attempts"],
        ["resume", run],
        ["merge", run, "--min-worlds", "1"],
    ]
    assert [state.status for state in api.status(run).states] == ["pending", "done", "pending"]
    assert api.status(run).config.retry.error == 5
    refused = manyworlds("merge", run)
    assert refused.code == 2
    assert "expected 3 finished worlds to merge, found 1 of 3" in refused.err
    merged = manyworlds("merge", run, "--min-worlds", "1")
    assert merged.code == 0
    assert merged.out.startswith(f"merged into {run}/ensembles/")


def test_ctrl_c_says_how_to_carry_on(site: Site, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = str(tmp_path / "run with blanks")
    settings = [*site.settings, "training.epochs=100000"]
    ended = interrupted(settings, run, when="waiting")
    assert ended.code == 130
    command = shlex.split(ended.err.splitlines()[-1])
    assert command == ["manyworlds", "train", f"run={run}", *settings]
    assert api.status(run).states[0].attempts[-1].cause == "stopped"
    assert signal.getsignal(signal.SIGINT) is before


def interrupted(settings: list[str], run: str, *, when: str) -> Ended:
    """Train, and press Ctrl-C as soon as a world is in the state `when`."""

    class Interrupting(display.PlainLines):
        def show(self, views: Sequence[WorldView]) -> None:
            if any(view.state == when for view in views):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "choose", lambda: Interrupting(print))
        return manyworlds("train", f"run={run}", *settings)


def test_status_of_a_finished_run_says_what_can_be_asked(site: Site) -> None:
    ended = manyworlds("status", site.run)
    assert ended.code == 0
    assert ended.out.splitlines()[0] == f"{site.run}: nobody drives it"
    assert ended.out.splitlines()[2].strip() == "3 worlds: 3 done"
    assert ended.next_commands == site.trained.next_commands


@pytest.mark.parametrize(
    "verb", [verb for verb in OPTIONS if verb not in ("prepare", "train", "doctor")]
)
def test_verbs_without_a_run_say_what_they_expect(verb: str) -> None:
    ended = manyworlds(verb)
    assert ended.code == 2
    assert "expected a run" in ended.err
    assert f"manyworlds {verb} runs/a" in ended.err


@pytest.mark.parametrize(
    "words",
    [
        ["resume"],
        ["status"],
        ["logs"],
        ["stop"],
        ["clean"],
        ["merge"],
        ["report"],
        ["grow", "worlds=9"],
    ],
)
def test_a_folder_without_a_run_is_told(words: list[str], tmp_path: Path) -> None:
    ended = manyworlds(words[0], str(tmp_path), *words[1:])
    assert ended.code == 2
    assert f"{tmp_path}: expected a run, found no identity.yaml" in ended.err


def test_evaluate_prints_metrics_and_the_curve_over_worlds(site: Site) -> None:
    held_out = site.folder / "held-out.parquet"
    ended = manyworlds(
        "evaluate", site.run, f"data={held_out}", "combiner=mean,log", "--k", "1,5", "rows=40"
    )
    assert ended.code == 0, ended.err
    assert "combiner log, 3 worlds, 40 rows, in %" in ended.out
    _, _, curve = ended.out.partition("with fewer worlds")
    lines = [text.split() for text in curve.splitlines()[1:]]
    assert lines[0] == ["combiner", "worlds", "P@1", "R@5"]
    assert [line[:2] for line in lines[1:7]] == [
        [name, count] for name in ("log", "mean") for count in ("1", "2", "3")
    ]
    first, last = float(lines[1][3]), float(lines[3][3])
    assert 0 < first < last <= 100


def test_evaluate_tells_what_is_wrong_with_its_words(site: Site) -> None:
    ended = manyworlds("evaluate", site.run, "dta=x", "limit")
    assert ended.code == 2
    assert "dta=x: expected one of data, combiner, leave_out, frequencies, rows" in ended.err
    assert "did you mean data=...?" in ended.err
    assert "limit: expected one of" in ended.err
    assert "expected data=PATH" in manyworlds("evaluate", site.run).err


def test_predict_answers_in_words_and_in_json(site: Site) -> None:
    words = ("predict", site.run, "word30 word31", "a=b", "--k", "2")
    said, raw = manyworlds(*words), manyworlds(*words, "--json")
    assert (said.code, raw.code) == (0, 0)
    answers: list[dict[str, Any]] = [json.loads(text) for text in raw.out.splitlines()]
    assert [answer["query"] for answer in answers] == ["word30 word31", "a=b"]
    best = answers[0]["classes"][0]
    assert (best["class"], best["name"]) == (10, "thing 10")
    assert [len(answer["classes"]) for answer in answers] == [2, 2]
    assert said.out.splitlines()[2].split() == [f"{best['score']:.4f}", "10", "thing", "10"]
    assert said.next_commands == [[*words, "--json"]]


def test_doctor_reports_each_thing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = manyworlds("doctor", str(tmp_path))
    assert ended.code == 0
    lines = [text.split() for text in ended.out.splitlines()[:-3]]
    levels = {line[1]: line[0] for line in lines}
    assert set(levels.values()) <= {"ok", "warn"}
    assert {"python", "torch", "ray", "cpus", "memory", "bf16", "gpus", "storage"} <= set(levels)
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_the_cluster_that_a_run_would_join_and_none_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> str:
        lines = manyworlds("doctor", str(tmp_path)).out.splitlines()
        return next(line for line in lines if "ray cluster" in line)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Where `ray start` leaves word.
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert f"{address}, which runs on this machine already" in found()
    assert "one is started on this machine" in found()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert "one is started on this machine" in found()


def test_doctor_says_where_storage_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = manyworlds("doctor", str(tmp_path / "file" / "run"))
    assert ended.code == 2
    assert any(text.startswith("broken storage") for text in ended.out.splitlines())


def test_train_is_a_function_too(site: Site) -> None:
    seen: list[int] = []
    config = load(None, [f"run={site.run}", *site.settings])
    summary = api.train(config, listener=lambda views: seen.append(len(views)))
    assert (summary.done, dict(summary.failed), summary.pending) == ((0, 1, 2), {}, ())
    assert summary.ensemble is not None
    assert seen[0] == 3
    with pytest.raises(ConfigError, match="expected a config or a preset, found both"):
        api.train(config, preset="quickstart")


def test_resume_names_worlds_that_the_run_does_not_have(site: Site) -> None:
    with pytest.raises(RunError, match="expected worlds from 0 to 2, found 7"):
        api.resume(site.run, [7])


def test_changed_data_is_refused(site: Site, tmp_path: Path) -> None:
    data = tmp_path / "train.parquet"
    settings = [f"run={tmp_path / 'run'}", *site.settings, f"data.train={data}", "worlds=1"]
    pq.write_table(rows(100), data)
    assert manyworlds("train", *settings).code == 0
    pq.write_table(rows(101), data)
    ended = manyworlds("train", *settings)
    assert ended.code == 2
    assert "expected the training data that the run began with" in ended.err
    data.unlink()
    with pytest.raises(DataError, match="expected a Parquet file"):
        api.resume(str(tmp_path / "run"))
