"""The public doors that read a run, and what must come of each case of `hostile`."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from orchestrator import Ensemble, api, evaluations
from orchestrator.cli import reports
from orchestrator.config import RunConfig
from orchestrator.ensemble import Evaluation, evaluate
from orchestrator.plan import gains
from orchestrator.report.facts import gather
from orchestrator.report.page import page
from tests.orchestrator.builders import named_classes, run_config, searches, trained, write
from tests.orchestrator.hostile import Case, Generator, hash_of
from workers.attempt import run_attempt
from workers.errors import ManyworldsError, StorageError
from workers.storage import RunPaths, Storage

MEMORY = 4 << 30
"""Bytes of address space that a case may take beside what the process has."""
SECONDS = 60
"""That a case may take."""
QUERIES = ["thing1", "thing7 and thing63"]

Verdict = Literal["refused", "same", "plausible", "wrong"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case at one door."""

    case: Case
    door: str
    verdict: Verdict
    found: str
    """The error's class, or what is wrong."""


class Subject:
    """A finished, merged run of three worlds with names, and the answers that it gives.

    Args:
        folder: an empty one; the run and what it must not touch are below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = write(folder / "names.parquet", named_classes())
        held_out = write(folder / "held_out.parquet", searches(40, seed=1))
        self.held_out = held_out
        self.config: RunConfig = run_config(
            folder,
            f"data.class_names={names}",
            f"data.validation={held_out}",
            "runtime.checkpoint_steps=8",
            "runtime.report_steps=8",
        )
        self.run = trained(self.config)
        evaluations.keep(str(self.run), _measured(self), held_out)
        (folder / "outside").mkdir()
        (folder / "outside" / "secret").write_text("untouched")
        self._drive_once()
        self.files = self._read(self.run)
        self._outside = self._around()
        self.canary = folder / "outside" / "canary"
        self.answers: dict[str, Any] = {}
        for name, door in DOORS.items():
            self.answers[name] = door(self)
            self._restore()

    def generator(self, *, seed: int = 0, flips: int = 40) -> Generator:
        """Return what makes the cases."""
        return Generator(self.files, self.canary, seed=seed, flips=flips)

    def paths(self) -> list[str]:
        """Return one file of each kind, and the doors' first choice among worlds."""
        ensemble = (self.run / "ensembles" / "CURRENT").read_text()
        wanted = ("worlds/001/", f"ensembles/{ensemble}/world-001", "settings/0001")
        others = ("worlds/", f"ensembles/{ensemble}/world-")
        return [
            path
            for path in sorted(self.files)
            if path.startswith(wanted) or not path.startswith(others)
        ]

    def judge(self, case: Case, door: str) -> Outcome:
        """Put a case in place, go through a door, judge what came of it, and clear up."""
        case.put(self.run)
        before = self._stats()
        try:
            with _bounded():
                answer = DOORS[door](self)
            verdict, found = self._judged(case, door, answer)
        except ManyworldsError as error:
            verdict, found = _explained(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            verdict, found = "wrong", f"{type(error).__name__}: {error}"[:500]
        if door not in WRITING and self._stats() != before:
            verdict, found = "wrong", "it changed the run"
        if self._around() != self._outside or self.canary.exists():
            verdict, found = "wrong", "it touched files outside of the run"
            self.canary.unlink(missing_ok=True)
        self._restore()
        return Outcome(case, door, verdict, found)

    def _judged(self, case: Case, door: str, answer: Any) -> tuple[Verdict, str]:
        if answer == self.answers[door]:
            return "same", ""
        if _may_differ(case, door):
            return "plausible", ""
        return "wrong", f"another answer: {_difference(self.answers[door], answer)}"[:500]

    def _drive_once(self) -> None:
        # A driver that died left its lease, and somebody's request to it.
        run = Storage(str(self.run))
        owner = {
            "host": "elsewhere", "boot": _boot(), "pid": 1, "started": "0",
            "token": "0123456789abcdef", "since": "2026-01-01T12:00:00+00:00", "beat": 3,
        }  # fmt: skip
        run.write_json(RunPaths.lease, owner)
        asked = {"token": owner["token"], "host": "here", "at": "2026-01-01T12:00:01+00:00"}
        run.write_json(RunPaths.stop, asked)

    def _read(self, folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def _stats(self) -> dict[str, tuple[int, int]]:
        return {
            path.relative_to(self.run).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in self.run.rglob("*")
            if path.is_file()
        }

    def _around(self) -> dict[str, str]:
        return {
            path.relative_to(self.folder).as_posix(): hash_of(path.read_bytes())
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_relative_to(self.run)
        }

    def _restore(self) -> None:
        for path, (size, _) in self._stats().items():
            wanted = self.files.get(path)
            if wanted is None:
                (self.run / path).unlink()
            elif size != len(wanted) or (self.run / path).read_bytes() != wanted:
                (self.run / path).write_bytes(wanted)
        for path, data in self.files.items():
            if not (self.run / path).exists():
                (self.run / path).parent.mkdir(parents=True, exist_ok=True)
                (self.run / path).write_bytes(data)


def doors(path: str) -> list[str]:
    """Return the doors behind which a file is read."""
    name = path.rpartition("/")[2]
    if path.startswith("ensembles/"):
        return ["predict", "alone", "evaluate", "status", "clean", "report"]
    if path.startswith("evaluations/"):
        return ["report", "plan", "status"]
    if "/checkpoints/" in path:
        return ["attempt", "clean", "status"]
    if "/final/" in path:
        return ["merge", "status", "clean", "resume"]
    if name == "dataset.json":
        return ["resume", "attempt", "status", "merge"]
    if path.startswith("worlds/"):
        more = ["resume"] if name == "state.json" else []
        return ["status", "report", "logs", "clean", "merge", *more]
    return ["status", "report", "logs", "clean", "merge", "resume"]


def _may_differ(case: Case, door: str) -> bool:
    """Return whether a door may give another answer: nothing vouches for what it shows."""
    if (door, case.path.rpartition("/")[2]) in TOLD or (
        door == "report" and "/metrics/" in case.path
    ):
        return True
    # Nothing vouches for numbers that were measured; what is no evaluation is refused all the same.
    if door in ("report", "plan") and case.path.startswith(f"{RunPaths.evaluations}/"):
        return True
    # The name of an ensemble's folder vouches for its manifest, and that for the weights;
    # the receipts vouch for the identity.
    vouched = VOUCHED.get(door, ())
    return case.plausible and not case.path.endswith(vouched)


def _explained(error: ManyworldsError) -> tuple[Verdict, str]:
    text = str(error)
    good = "expected" in text or "unknown key" in text
    return ("refused", type(error).__name__) if good else ("wrong", f"no explanation: {text}"[:500])


@contextmanager
def _bounded() -> Iterator[None]:
    """Bound the memory and the time of what is done inside."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    old = signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _late(number: int, frame: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                return f"{key}: {_difference(old.get(key), new.get(key))}"
    return f"{old!r:.100} became {new!r:.300}"


def _boot() -> str:
    from orchestrator.lease import _boot as boot

    return boot()


def _status(subject: Subject) -> Any:
    found = api.status(str(subject.run))
    reports.attempts(found)
    told = json.loads(json.dumps(reports.status(found), allow_nan=False))
    return {**told, "config": found.config.to_dict(), "driving": reports.driving(found)}


def _logs(subject: Subject) -> Any:
    return [asdict(log) for log in api.logs(str(subject.run))]


def _clean(subject: Subject) -> Any:
    return [(item.path, item.why) for item in api.clean(str(subject.run), dry_run=True)]


def _merge(subject: Subject) -> Any:
    # Without the ensemble that is there already, so that the weights are read.
    shutil.rmtree(subject.run / "ensembles", ignore_errors=True)
    folder = Path(api.merge(str(subject.run)))
    # What was merged must open too: nobody looks into weights before that.
    found = Ensemble.load(str(folder), verify="full", threads=1)
    return {
        "uri": found.artefact.uri,
        **{name: hash_of(b) for name, b in subject._read(folder).items()},
    }


def _resume(subject: Subject) -> Any:
    summary = api.resume(str(subject.run), take_over=True)
    if summary.ensemble:
        Ensemble.load(summary.ensemble, verify="full", threads=1)
    return (summary.done, dict(summary.failed), summary.pending, summary.error, summary.ensemble)


def _attempt(subject: Subject) -> Any:
    config = subject.config.world_config()
    return run_attempt(str(subject.run), config, 1, "99-again")["model_sha256"]


def _predict(subject: Subject) -> Any:
    ensemble = Ensemble.load(str(subject.run), verify="full", threads=1)
    found = ensemble.predict(QUERIES, k=5)
    return {"ids": found.ids.tolist(), "scores": found.scores.tolist(), "names": found.names}


def _alone(subject: Subject) -> Any:
    # Under another name: nothing vouches for the manifest then.
    home = next((subject.run / "ensembles").glob("*/"))
    folder = home.rename(subject.folder / "alone")
    try:
        found = Ensemble.load(str(folder), verify="full", threads=1).predict(QUERIES, k=5)
    finally:
        folder.rename(home)
    return {"ids": found.ids.tolist(), "scores": found.scores.tolist(), "names": found.names}


def _measured(subject: Subject) -> Evaluation:
    ensemble = Ensemble.load(str(subject.run), verify="full", threads=1)
    return evaluate(ensemble, subject.held_out, ks=(1, 5))


def _evaluate(subject: Subject) -> Any:
    return {str(key): dict(values) for key, values in _measured(subject).metrics.items()}


def _report(subject: Subject) -> Any:
    facts = gather(str(subject.run), datetime(2026, 1, 1, tzinfo=UTC))
    made = page(facts)
    # Whatever files hold is shown as text: no tag of theirs gets into the page.
    assert "<script" not in made
    # The rest is shown beside the words for what could not be read; those are judged as any.
    for line in facts.damage:
        if f"/{RunPaths.evaluations}/" in line:
            raise StorageError(line)
    return made.splitlines()


def _plan(subject: Subject) -> Any:
    return [asdict(gain) for gain in gains(evaluations.kept(Storage(str(subject.run)))[-1])]


DOORS: dict[str, Callable[[Subject], Any]] = {
    "status": _status,
    "logs": _logs,
    "clean": _clean,
    "merge": _merge,
    "resume": _resume,
    "attempt": _attempt,
    "predict": _predict,
    "alone": _alone,
    "evaluate": _evaluate,
    "report": _report,
    "plan": _plan,
}
TOLD = {
    ("logs", "log.txt"),
    *((door, name) for door in ("status", "report") for name in ("progress.json", "stop.json")),
}
"""What is for people alone, and a request that asks for nothing if it cannot be read."""
VOUCHED: dict[str, tuple[str, ...]] = {
    "predict": ("manifest.json", ".safetensors"),
    "evaluate": ("manifest.json", ".safetensors"),
    "merge": ("identity.yaml",),
    "resume": ("identity.yaml",),
}
WRITING = {"merge", "resume", "attempt"}
