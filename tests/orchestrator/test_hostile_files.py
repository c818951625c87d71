"""Hostile files in place of those of a run: a slice of what `python -m chaos.hostile` goes through.

Every case gives an error in words or the answer of the run that nobody touched, runs no code
and touches nothing outside of the run's folder; see `hostile` for what nobody can tell.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from tests.orchestrator.hostile import Case, sealed_files
from tests.orchestrator.hostile_doors import DOORS, Subject, doors

EACH = 3
"""Cases of each file."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tmp_path_factory.mktemp("hostile"))


def chosen(subject: Subject) -> Iterator[tuple[Case, str]]:
    """Yield some cases of every file, and a door for each; the same ones every time."""
    for number, path in enumerate(subject.paths()):
        rng = random.Random(number)
        for case in subject.generator().cases(path, EACH):
            yield case, rng.choice(doors(path))


def test_hostile_files_are_refused_or_do_no_harm(subject: Subject) -> None:
    outcomes = [subject.judge(case, door) for case, door in chosen(subject)]
    wrong = [f"{o.door}, {o.case}: {o.found}" for o in outcomes if o.verdict == "wrong"]
    assert wrong == []
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    assert verdicts["refused"] > 10 and verdicts["same"] > 10, verdicts


def test_every_file_and_every_door_is_tried(subject: Subject) -> None:
    assert {door for path in subject.paths() for door in doors(path)} == set(DOORS)
    kinds = {path.rpartition("/")[2] for path in subject.paths()}
    wanted = "identity.yaml 0001.yaml dataset.json driver.json stop.json state.json progress.json"
    wanted += " model.safetensors optimizer.safetensors receipt.json content.json COMMIT CURRENT"
    assert kinds >= {*wanted.split(), "manifest.json", "classes.parquet", "world-001.safetensors"}


def test_what_is_wrong_is_seen(subject: Subject) -> None:
    """Answers, crashes and traces of code that should not be are told from what may be."""
    path = next(path for path in subject.paths() if path.endswith("world-001.safetensors"))
    weights = subject.files[path][:-64] + np.full(16, 9.0, np.float32).tobytes()
    files = sealed_files(subject.files, path, weights)
    forged = Case(path, "other weights", files, plausible=True)
    unsealed = {p: data for p, data in files.items() if not p.endswith("manifest.json")}
    assert subject.judge(forged, "predict").verdict == "refused"
    assert subject.judge(forged, "alone").verdict == "plausible"
    strict = Case(path, "other weights", files)
    assert subject.judge(strict, "alone").verdict == "wrong"
    assert subject.judge(Case(path, "unsealed", unsealed), "alone").verdict == "refused"
    outside = Case("../outside/canary", "code that ran", {"../outside/canary": b""})
    found = subject.judge(outside, "logs")
    assert (found.verdict, found.found) == ("wrong", "it touched files outside of the run")


def test_a_door_that_crashes_is_seen(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(subject: Subject) -> None:
        raise KeyError("raw")

    monkeypatch.setitem(DOORS, "logs", crash)
    found = subject.judge(Case("identity.yaml", "nothing", {}), "logs")
    assert (found.verdict, found.found) == ("wrong", "KeyError: 'raw'")
