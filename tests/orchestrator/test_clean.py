"""What `clean` removes, and above all what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.cleaning import remove, superfluous
from orchestrator.lease import Lease
from orchestrator.run import Run
from orchestrator.state import WorldState
from tests.orchestrator.builders import attempt, begun, flip, recommit
from tests.orchestrator.command import manyworlds
from workers.errors import RunError, StorageError
from workers.storage import RunPaths, Storage

SERVED, OLD, CUT = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run with a world done, one failed, and one that a dead driver left open."""
    made = begun(tmp_path)
    done = (attempt("01-aa", "preemption"), attempt("02-bb", "done"))
    made.save(WorldState(index=0, status="done", attempts=done, winner="02-bb"))
    failed = (attempt("01-cc", "error"), attempt("02-dd", "error"))
    made.save(WorldState(index=1, status="failed", attempts=failed))
    lost = (attempt("01-ee", "preemption"), attempt("02-ff", None))
    made.save(WorldState(index=2, status="running", attempts=lost))
    for world, name, steps in [
        (0, "01-aa", [20]),
        (0, "02-bb", [30, 40]),
        (1, "01-cc", [10, 20]),
        (1, "02-dd", [20]),
        (2, "01-ee", [10]),
        (2, "02-ff", [10, 20]),
    ]:
        for step in steps:
            commit(made, made.paths.checkpoint(world, name, step))
    commit(made, made.paths.final(0, "02-bb"))
    for folder in (
        made.paths.checkpoint(1, "02-dd", 30),
        made.paths.final(1, "02-dd"),
        made.paths.checkpoint(2, "02-ff", 30),
        made.paths.ensemble(CUT),
    ):
        made.storage.write_bytes(f"{folder}/model.safetensors", b"half")
    for digest in (SERVED, OLD):
        commit(made, made.paths.ensemble(digest))
    made.storage.write_bytes(made.paths.current, SERVED.encode())
    for path in ("worlds/001/.state.json.01234567.tmp", "worlds/002/attempts/02-ff/.x.89.tmp"):
        Path(made.uri, path).write_bytes(b"half")
    return made


def commit(run: Run, folder: str) -> None:
    run.storage.commit(folder, {"model.safetensors": folder.encode()})


def folders(sizes: dict[str, int]) -> set[str]:
    return {path.rpartition("/")[0] for path in sizes}


SUPERFLUOUS = {
    "worlds/000/attempts/01-aa/checkpoints/00000020": "its world is done",
    "worlds/000/attempts/02-bb/checkpoints/00000030": "its world is done",
    "worlds/000/attempts/02-bb/checkpoints/00000040": "its world is done",
    "worlds/001/attempts/01-cc/checkpoints/00000010": "a newer checkpoint is there",
    "worlds/001/attempts/01-cc/checkpoints/00000020": "a newer checkpoint is there",
    "worlds/001/attempts/02-dd/checkpoints/00000030": "never committed",
    "worlds/001/attempts/02-dd/final": "never committed",
    "worlds/002/attempts/01-ee/checkpoints/00000010": "a newer checkpoint is there",
    f"ensembles/{OLD}": "another ensemble is served",
    f"ensembles/{CUT}": "never committed",
    "worlds/001/.state.json.01234567.tmp": "half written",
}


def test_clean_removes_what_nothing_needs(run: Run) -> None:
    before = run.storage.sizes()
    removed = api.clean(run.uri)
    assert {item.path: item.why for item in removed} == SUPERFLUOUS
    after = run.storage.sizes()
    gone = {
        path for path in before if path in SUPERFLUOUS or path.rpartition("/")[0] in SUPERFLUOUS
    }
    assert before.keys() - after.keys() == gone
    assert sum(item.size for item in removed) == sum(before[path] for path in gone)
    assert api.clean(run.uri) == []


def test_what_clean_leaves_still_counts(run: Run) -> None:
    newest = {world: run.paths.newest_checkpoint(world) for world in (1, 2)}
    api.clean(run.uri)
    assert {world: run.paths.newest_checkpoint(world) for world in (1, 2)} == newest
    assert run.storage.verify(run.paths.final(0, "02-bb"))
    assert run.storage.verify(run.paths.ensemble(SERVED))
    assert api.status(run.uri).ensemble == f"{run.uri}/ensembles/{SERVED}"


def test_a_dry_run_says_the_same_and_removes_nothing(run: Run) -> None:
    before = run.storage.sizes()
    told = api.clean(run.uri, dry_run=True)
    assert run.storage.sizes() == before
    assert api.clean(run.uri) == told


def test_an_attempt_that_no_driver_closed_is_let_be(run: Run) -> None:
    """What is left of a dead driver may be in the middle of a write."""
    mine = {path for path in run.storage.sizes() if "/02-ff/" in path}
    assert len(mine) == 6
    api.clean(run.uri)
    assert mine <= run.storage.sizes().keys()


def test_nothing_is_removed_under_a_driver(run: Run) -> None:
    before = run.storage.sizes()
    with Lease(run.storage):
        with pytest.raises(RunError, match="expected a run that nobody drives, found a driver"):
            api.clean(run.uri)
        assert run.storage.sizes().keys() == {*before, RunPaths.lease}
    assert api.clean(run.uri)


@pytest.mark.parametrize(
    "stays", ["worlds/000/attempts/02-bb/final", "worlds/001/attempts/02-dd/checkpoints/00000020"]
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_nothing_is_removed_if_what_would_stay_is_altered(
    run: Run, stays: str, dry_run: bool
) -> None:
    flip(Path(run.uri, stays, "model.safetensors"))
    before = run.storage.sizes()
    with pytest.raises(StorageError, match=stays):
        api.clean(run.uri, dry_run=dry_run)
    assert run.storage.sizes() == before


def test_a_winner_that_lost_its_commit_is_not_taken_for_a_leftover(run: Run) -> None:
    final = run.paths.final(0, "02-bb")
    run.storage.delete(f"{final}/COMMIT")
    for step in (30, 40):
        run.storage.delete(run.paths.checkpoint(0, "02-bb", step))
    run.storage.delete(run.paths.checkpoint(0, "01-aa", 20))
    api.clean(run.uri)
    assert run.storage.exists(f"{final}/model.safetensors")


def test_without_a_whole_ensemble_to_serve_none_goes_that_was_committed(run: Run) -> None:
    recommit(Path(run.uri, "ensembles", SERVED), {"more": b"more"})
    run.storage.write_bytes(f"ensembles/{SERVED}/more", b"cut")
    assert run.storage.exists(f"ensembles/{OLD}")
    removed = [item.path for item in api.clean(run.uri) if item.path.startswith("ensembles/")]
    assert removed == [f"ensembles/{CUT}"]


def test_what_others_keep_in_a_run_is_let_be(run: Run) -> None:
    for path in ("notes.txt", "ensembles/mine/x", "worlds/000/attempts/mine/checkpoints/7/x"):
        run.storage.write_bytes(path, b"mine")
    before = folders(run.storage.sizes())
    api.clean(run.uri)
    assert {"ensembles/mine", "worlds/000/attempts/mine/checkpoints/7"} <= before
    assert before - folders(run.storage.sizes()) == {
        path for path in SUPERFLUOUS if not path.endswith(".tmp")
    }
    assert run.storage.read_bytes("notes.txt") == b"mine"


def test_clean_works_on_an_object_store() -> None:
    run = Run.create("mock:///bucket/run", {"seed": 1}, {"worlds": 1})
    for step in (10, 20):
        commit(run, run.paths.checkpoint(0, "01-aa", step))
    remove(run, superfluous(run))
    assert [item.step for item in run.paths.checkpoints(0)] == [20]


def test_the_command_tells_each_thing_and_the_bytes(run: Run) -> None:
    planned = manyworlds("clean", run.uri, "--dry-run")
    assert planned.code == 0
    lines = planned.out.splitlines()
    for path, why in SUPERFLUOUS.items():
        assert any(line.endswith(f"  {path}: {why}") for line in lines)
    assert "would be freed" in planned.out
    assert planned.next_commands == [["clean", run.uri]]
    ended = manyworlds(*planned.next_commands[0])
    assert ended.out.splitlines()[: len(SUPERFLUOUS)] == lines[: len(SUPERFLUOUS)]
    assert ended.out.splitlines()[len(SUPERFLUOUS)].endswith(" were freed")
    assert ended.next_commands == [["status", run.uri]]
    assert "nothing to remove" in manyworlds("clean", run.uri).out


def test_the_command_refuses_under_a_driver(run: Run) -> None:
    with Lease(Storage(run.uri)):
        ended = manyworlds("clean", run.uri)
    assert ended.code == 2
    assert "found a driver: process" in ended.err
