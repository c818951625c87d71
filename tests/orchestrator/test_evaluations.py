"""What is kept of an evaluation, and read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import evaluations
from orchestrator.ensemble.artefact import served
from tests.orchestrator.builders import run_config, searches, trained, write
from tests.orchestrator.command import manyworlds
from workers.errors import StorageError
from workers.storage import Storage


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder with a merged run of three worlds, and the path of held-out rows."""
    folder = tmp_path_factory.mktemp("source")
    trained(run_config(folder))
    return folder, write(folder / "held-out.parquet", searches(60, seed=3))


def test_evaluate_keeps_the_curve_with_the_run(merged: tuple[Path, str]) -> None:
    folder, held_out = merged
    run = str(folder / "run")
    for combiner in ("mean", "log"):
        words = ["evaluate", run, f"data={held_out}", f"combiner={combiner}", "--k", "1,5"]
        assert manyworlds(*words).code == 0
    storage = Storage(run)
    first, last = evaluations.kept(storage)
    assert (first.ensemble, first.data, first.rows) == (served(storage), held_out, 60)
    assert list(first.metrics) == [("mean", 1), ("mean", 2), ("mean", 3)]
    assert {combiner for combiner, _ in last.metrics} == {"log"}
    assert 0 < last.metrics["log", 3]["R@5"] <= 1


def test_a_part_of_the_rows_and_an_ensemble_alone_leave_nothing(merged: tuple[Path, str]) -> None:
    folder, held_out = merged
    storage = Storage(str(folder / "run"))
    before = storage.numbered("evaluations")
    digest = served(storage)
    for words in ([str(folder / "run"), "rows=20"], [f"{folder}/run/ensembles/{digest}"]):
        assert manyworlds("evaluate", words[0], f"data={held_out}", *words[1:]).code == 0
    assert storage.numbered("evaluations") == before


@pytest.mark.parametrize(
    "text",
    [
        b'{"schema": 1}',
        b'{"schema": 1, "ensemble": "a", "data": "b", "rows": 1, "at": "", "curves": [3]}',
        b'{"schema": 1, "ensemble": "a", "data": "b", "rows": 1, "at": "", "curves":'
        b' [{"combiner": "log", "worlds": 1, "metrics": {"P@1": "high"}}]}',
        b'{"schema": 1, "ensemble": "a", "data": "b", "rows": 1, "at": "", "curves":'
        b' [{"combiner": "log", "worlds": 0, "metrics": {"P@1": 0.5}}]}',
    ],
)
def test_an_altered_file_is_told(text: bytes, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("evaluations/0001.json", text)
    with pytest.raises(StorageError, match=r"0001\.json: expected what `manyworlds evaluate` kept"):
        evaluations.kept(storage)
