"""Runs as jobs on a cluster that is made up: names, logs, ends, and what is said about them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.arguments import parse
from orchestrator.config import load, override
from orchestrator.executors import jobs as ray_jobs
from orchestrator.submitting import Job, NameTaken, Unreachable, follow, name_of, submit
from tests.orchestrator.builders import run_config
from tests.orchestrator.command import Ended, manyworlds
from workers.errors import RunError

ADDRESS = "http://head:8265"
GONE = "the line broke"
Break = type[KeyboardInterrupt] | str
"""What ends a try to read a log: Ctrl-C, or the words of an error."""


class MadeUp:
    """The jobs of no cluster: their logs are told by the test, and they end when told to."""

    def __init__(self, *there: Job) -> None:
        self.there = {job.name: job for job in there}
        self.commands: dict[str, str] = {}
        self.environments: list[dict[str, Any]] = []
        self.tries: list[tuple[list[str], Break | None]] = [(["trained\n"], None)]
        """For each try to read a log: its pieces, and what breaks it then; the last one again."""
        self.end = Job(name="", state="SUCCEEDED", exit_code=0)
        """How jobs end once their log was read to its end."""
        self.rivals: list[str] = []
        """Names that somebody else takes just before this client."""

    def named(self, name: str) -> list[Job]:
        return [job for job in self.there.values() if job.name.startswith(name)]

    def submit(self, name: str, command: str, environment: dict[str, Any]) -> None:
        if self.rivals:
            rival = self.rivals.pop(0)
            self.there[rival] = Job(name=rival, state="RUNNING")
        if name in self.there:
            raise NameTaken(name)
        self.there[name] = Job(name=name, state="PENDING")
        self.commands[name] = command
        self.environments.append(environment)

    def look(self, name: str) -> Job:
        return self.there[name]

    def tail(self, name: str, write: Callable[[str], None]) -> None:
        pieces, broken = self.tries.pop(0) if len(self.tries) > 1 else self.tries[0]
        for piece in pieces:
            write(piece)
        if isinstance(broken, str):
            raise Unreachable(broken)
        if broken is not None:
            raise broken
        self.there[name] = replace(self.end, name=name)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    """Put jobs that are made up in the place of Ray's."""
    made = MadeUp()

    def reached(address: str) -> MadeUp:
        assert address == ADDRESS
        return made

    monkeypatch.setattr(ray_jobs, "RayJobs", reached)
    return made


@pytest.fixture
def words(tmp_path: Path) -> Iterator[list[str]]:
    """Return the words of a run of paths that begin in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        yield [
            "run=runs/a",
            "data.train=rows",
            "data.classes=64",
            "data.text=[query]",
            "partition.buckets=16",
        ]


def train(words: list[str], *options: str) -> Ended:
    return manyworlds("train", *words, "--submit", ADDRESS, *options)


def settings_of(command: str) -> list[str]:
    program, verb, *settings = shlex.split(command)
    assert (program, verb) == ("manyworlds", "train")
    return settings


def test_a_job_runs_the_same_settings_on_its_own_cluster(
    cluster: MadeUp, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"training": {"epochs": 7}, "seed": 3}))
    assert train(["mine.yaml", *words]).code == 0
    ((_, command),) = cluster.commands.items()
    *settings, last = settings_of(command)
    assert last == "cluster.address=auto"
    wanted = load("mine.yaml", words)
    places = [f"run={tmp_path}/runs/a", f"data.train={tmp_path}/rows"]
    assert load(None, settings) == override(wanted, places)


def test_uris_stay_what_they_are_and_paths_get_a_word(cluster: MadeUp, words: list[str]) -> None:
    remote = ["run=s3://b/a", "data.train=s3://b/rows"]
    ended = train([*words, *remote])
    assert {*remote} <= {*settings_of(*cluster.commands.values())}
    assert ended.err == ""
    assert "every machine of the cluster has to reach the same files" in train(words).err


def test_environments_and_credentials_stay_at_home(
    cluster: MadeUp, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    train(words)
    assert cluster.environments == [{}]
    assert "hush" not in str(cluster.commands)


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_an_environment_is_read_from_a_file(
    cluster: MadeUp, words: list[str], tmp_path: Path, kind: str
) -> None:
    wanted = {"pip": ["manyworlds"], "env_vars": {"A": "1"}}
    text = json.dumps(wanted) if kind == "json" else yaml.safe_dump(wanted)
    (tmp_path / f"env.{kind}").write_text(text)
    assert train(words, "--runtime-env", f"env.{kind}").code == 0
    assert cluster.environments == [wanted]


def test_an_environment_that_is_none_is_refused(
    cluster: MadeUp, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "list.yaml").write_text("- pip\n")
    ended = train(words, "--runtime-env", "list.yaml")
    assert (ended.code, cluster.commands) == (2, {})
    assert "--runtime-env list.yaml: expected `key: value` lines" in ended.err


def test_the_same_command_follows_the_job_that_is_at_work(
    cluster: MadeUp, words: list[str]
) -> None:
    assert train(words, "--detach").code == 0
    ended = train(words)
    assert ended.code == 0
    assert len(cluster.commands) == 1
    assert "is at work already" in ended.out
    assert "trained\n" in ended.out


def test_once_a_job_has_ended_the_same_command_begins_another(
    cluster: MadeUp, words: list[str]
) -> None:
    for _ in range(3):
        train(words)
    first, second, third = cluster.commands
    assert (second, third) == (f"{first}-2", f"{first}-3")
    assert len({*cluster.commands.values()}) == 1


@pytest.mark.parametrize("other", ["worlds=9", "run=runs/b"])
def test_another_run_or_other_settings_are_another_job(
    cluster: MadeUp, words: list[str], other: str
) -> None:
    train(words, "--detach")
    train([*words, other], "--detach")
    one, two = (name.split("-") for name in cluster.commands)
    assert len(one) == len(two) == 3
    assert (one[1] == two[1]) == other.startswith("worlds")
    assert one[2] != two[2]


def test_taking_over_is_no_other_job(cluster: MadeUp, words: list[str]) -> None:
    train(words, "--take-over", "--detach")
    (command,) = cluster.commands.values()
    assert command.endswith("cluster.address=auto --take-over")
    assert "is at work already" in train(words).out


@pytest.mark.parametrize(
    ("verb", "more", "wanted"),
    [
        ("resume", ["--worlds", "2,1"], "cluster.address=auto --worlds 1,2"),
        ("resume", ["cluster.max_parallel=4"], "cluster.max_parallel=4 cluster.address=auto"),
        ("grow", ["worlds=9"], "worlds=9 cluster.address=auto"),
    ],
)
def test_resume_and_grow_are_jobs_too(
    cluster: MadeUp, verb: str, more: list[str], wanted: str
) -> None:
    assert manyworlds(verb, "/runs/a", *more, "--submit", ADDRESS).code == 0
    assert [*cluster.commands.values()] == [f"manyworlds {verb} /runs/a {wanted}"]


@pytest.mark.parametrize("verb", ["train", "resume"])
def test_another_cluster_than_its_own_is_refused(
    cluster: MadeUp, words: list[str], verb: str
) -> None:
    given = words if verb == "train" else ["runs/a"]
    ended = manyworlds(verb, *given, "cluster.address=local", "--submit", ADDRESS)
    assert (ended.code, cluster.commands) == (2, {})
    assert "expected cluster.address=auto beside --submit, found local" in ended.err


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("train", "run=s3://KEY:hush@bucket/a"),
        ("train", "data.train=s3://bucket/rows?secret_key=hush"),
        ("train", "watch.notify=https://hooks.example.com/hush"),
        ("resume", "s3://KEY:hush@bucket/a"),
        ("resume", "watch.notify=https://hooks.example.com/hush"),
        ("resume", "watch={notify: notify --key hush}"),
    ],
)
def test_secrets_never_get_into_the_command_of_a_job(
    cluster: MadeUp, words: list[str], verb: str, given: str
) -> None:
    begin = words if verb == "train" else [] if "=" not in given else ["/runs/a"]
    ended = manyworlds(verb, *begin, given, "--submit", ADDRESS)
    assert (ended.code, cluster.commands) == (2, {})
    assert "hush" not in ended.out + ended.err
    assert "expected env:NAME beside" in ended.err or "without credentials" in ended.err


@pytest.mark.parametrize("verb", ["train", "resume"])
def test_a_secret_that_the_cluster_has_in_its_environment_is_named(
    cluster: MadeUp, words: list[str], verb: str
) -> None:
    given = words if verb == "train" else ["/runs/a"]
    assert manyworlds(verb, *given, "watch.notify=env:HOOK", "--submit", ADDRESS).code == 0
    (command,) = cluster.commands.values()
    assert "watch.notify=env:HOOK" in shlex.split(command)


def test_a_typo_is_told_before_anything_is_submitted(cluster: MadeUp) -> None:
    ended = manyworlds("resume", "/runs/a", "cluster.max_paralel=4", "--submit", ADDRESS)
    assert (ended.code, cluster.commands) == (2, {})
    assert "did you mean cluster.max_parallel?" in ended.err


def test_folders_in_the_settings_of_a_resumed_run_mean_those_of_here(
    cluster: MadeUp, words: list[str], tmp_path: Path
) -> None:
    given = ["watch.tensorboard=curves", "cluster.max_parallel=null"]
    assert manyworlds("resume", "runs/a", *given, "--submit", ADDRESS).code == 0
    (command,) = cluster.commands.values()
    folder, most = f"watch.tensorboard={tmp_path}/curves", "cluster.max_parallel=null"
    assert shlex.split(command)[3:] == [folder, most, "cluster.address=auto"]


@pytest.mark.parametrize("option", [["--detach"], ["--runtime-env", "env.yaml"]])
def test_options_of_a_job_need_a_cluster(words: list[str], option: list[str]) -> None:
    ended = manyworlds("train", *words, *option)
    assert ended.code == 2
    assert "expected --submit ADDRESS beside --detach or --runtime-env" in ended.err


@pytest.mark.parametrize("detached", [True, False], ids=["detached", "interrupted"])
def test_leaving_says_how_to_come_back(
    cluster: MadeUp, words: list[str], tmp_path: Path, detached: bool
) -> None:
    cluster.tries = [(["half\n"], KeyboardInterrupt)]
    ended = train(words, *(["--detach"] if detached else []))
    assert ended.code == (0 if detached else 130)
    (name,) = cluster.commands
    assert f"job {name} goes on" in ended.out
    run = f"{tmp_path}/runs/a"
    again, *others = ended.next_commands
    assert others == [["status", run, "--watch"], ["stop", run]]
    assert again == ["train", *words, "--submit", ADDRESS]
    assert parse(again).submit == ADDRESS


def test_a_job_that_succeeds_ends_well(cluster: MadeUp, words: list[str]) -> None:
    ended = train(words)
    (name,) = cluster.commands
    assert ended.code == 0
    assert ended.out.endswith(f"trained\njob {name} succeeded\n")


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        (Job(name="", state="FAILED", exit_code=1), "its command ended with exit code 1"),
        (Job(name="", state="FAILED", exit_code=127), "expected the command manyworlds"),
        (Job(name="", state="FAILED", message="no pip"), "before its command began: no pip"),
        (Job(name="", state="STOPPED"), "was stopped before its command ended; the same command"),
    ],
)
def test_a_job_that_does_not_says_why(
    cluster: MadeUp, words: list[str], end: Job, wanted: str
) -> None:
    cluster.end = end
    ended = train(words)
    assert ended.code == 1
    assert wanted in ended.err


def test_every_piece_of_a_log_is_written_once_though_the_line_breaks() -> None:
    jobs = MadeUp(Job(name="a", state="RUNNING"))
    jobs.tries = [(["one\n", "tw"], GONE), (["one"], GONE), (["one\ntwo\n", "three\n"], None)]
    pieces: list[str] = []
    assert follow(jobs, "a", pieces.append, sleep=lambda seconds: None).succeeded
    assert pieces == ["one\n", "tw", "o\n", "three\n"]


def test_a_cluster_that_is_silent_for_two_minutes_is_given_up() -> None:
    class Silent(MadeUp):
        def look(self, name: str) -> Job:
            raise Unreachable(GONE)

    jobs = Silent(Job(name="a", state="RUNNING"))
    jobs.tries = [([], GONE)]
    pauses: list[float] = []
    with pytest.raises(RunError, match=r"word of job a, found none for \d+ s: the line broke"):
        follow(jobs, "a", lambda piece: None, sleep=pauses.append)
    assert sum(pauses) >= 120
    assert all(before <= after <= 15 for before, after in pairwise(pauses))


def test_a_job_whose_log_cannot_be_read_is_followed_to_its_end() -> None:
    jobs = MadeUp(Job(name="a", state="RUNNING"))
    jobs.tries = [([], GONE)]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if sum(pauses) > 600:
            jobs.there["a"] = Job(name="a", state="FAILED", exit_code=1)

    assert follow(jobs, "a", lambda piece: None, sleep=sleep).exit_code == 1
    assert 600 < sum(pauses) < 660


def test_a_job_that_was_lost_with_its_head_is_told_at_once() -> None:
    class Lost(MadeUp):
        def look(self, name: str) -> Job:
            raise RunError("the head was lost")

    jobs = Lost()
    jobs.tries = [([], GONE)]
    pauses: list[float] = []
    with pytest.raises(RunError, match="the head was lost"):
        follow(jobs, "a", lambda piece: None, sleep=pauses.append)
    assert pauses == []


def test_the_last_words_of_a_job_are_read_though_the_line_broke_before_them() -> None:
    jobs = MadeUp(Job(name="a", state="FAILED", exit_code=1))
    jobs.end = Job(name="", state="FAILED", exit_code=1)
    jobs.tries = [(["one\n"], GONE), (["one\n", "last\n"], None)]
    pieces: list[str] = []
    assert follow(jobs, "a", pieces.append, sleep=lambda seconds: None).exit_code == 1
    assert pieces == ["one\n", "last\n"]


def test_a_line_that_breaks_often_but_brings_news_is_not_given_up() -> None:
    jobs = MadeUp(Job(name="a", state="RUNNING"))
    text = ["line\n" * number for number in range(100)]
    jobs.tries = [*(([piece], GONE) for piece in text), ([text[-1]], None)]
    pieces: list[str] = []
    assert follow(jobs, "a", pieces.append, sleep=lambda seconds: None).succeeded
    assert "".join(pieces) == text[-1]


def test_of_two_who_submit_at_once_one_begins_and_both_follow() -> None:
    jobs = MadeUp()
    jobs.rivals = ["a"]
    assert submit(jobs, "a", "manyworlds", {}) == (Job(name="a", state="RUNNING"), False)
    assert jobs.commands == {}


def test_a_name_that_is_taken_by_what_cannot_be_seen_is_an_error() -> None:
    class Hidden(MadeUp):
        def named(self, name: str) -> list[Job]:
            return []

    with pytest.raises(NameTaken):
        submit(Hidden(Job(name="a", state="RUNNING")), "a", "manyworlds", {})


@pytest.mark.parametrize("silent", ["named", "submit"])
def test_a_cluster_that_falls_silent_before_a_job_began_says_what_to_do(
    cluster: MadeUp, words: list[str], monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    def fail(*more: object) -> None:
        raise Unreachable(GONE)

    monkeypatch.setattr(cluster, silent, fail)
    ended = train(words)
    assert ended.code == 2
    assert "expected the cluster to take a job, found no answer: the line broke" in ended.err
    assert "the same command again" in ended.err


def test_a_name_says_the_run_and_the_command_and_nothing_else() -> None:
    name = name_of("s3://bucket/a", "manyworlds train")
    assert name == name_of("s3://bucket/a/", "manyworlds train")
    assert "bucket" not in name


def test_dry_run_submits_nothing(cluster: MadeUp, tmp_path: Path) -> None:
    config = run_config(tmp_path)
    words = [f"run={config.run}", f"data.train={config.data.train}", "data.classes=64"]
    ended = train([*words, "data.text=[query]", "partition.buckets=16"], "--dry-run")
    assert (ended.code, cluster.commands) == (0, {})
    assert ended.next_commands[0][-2:] == ["--submit", ADDRESS]
