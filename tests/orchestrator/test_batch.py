"""Answers for whole data sets, beside what `predict` answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import Ensemble
from orchestrator.batch import BatchJob, predict_all
from tests.orchestrator.builders import (
    copied,
    named_classes,
    run_config,
    searches,
    trained,
    write,
)
from tests.orchestrator.command import manyworlds
from workers.errors import ConfigError, DataError, RunError, StorageError

PARTS = [f"part-{shard:05d}.parquet" for shard in range(3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source")
    names = write(folder / "names.parquet", named_classes())
    return str(trained(run_config(folder, f"data.class_names={names}")))


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Return a folder of three shards, the last of them without rows."""
    for number, rows in enumerate((70, 33, 0)):
        table = searches(rows or 1, seed=number).slice(0, rows)
        table = table.append_column("id", pa.array(range(rows), pa.int32()))
        write(tmp_path / "rows" / f"{number}.parquet", table, rows=25)
    return str(tmp_path / "rows")


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*")))


def test_every_row_gets_the_answers_of_predict(run: str, data: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    job = BatchJob(ensemble=run, data=data, out=str(tmp_path / "out"), k=3, keep=("id", "query"))
    found = predict_all(job, address="none", progress=lambda *done: told.append(done))
    assert (found.rows, found.parts, found.found) == (103, 2, 0)
    assert told == [(0, 2), (1, 2), (2, 2)]
    answers, rows = read(tmp_path / "out"), pq.read_table(data)
    wanted = Ensemble.load(run).predict(rows, k=3)
    assert answers.column_names == ["id", "query", "classes", "scores", "names"]
    assert answers["id"].equals(rows["id"]) and answers["query"].equals(rows["query"])
    assert answers["classes"].to_pylist() == wanted.ids.tolist()
    assert answers["scores"].to_pylist() == wanted.scores.tolist()
    assert answers["names"].to_pylist() == wanted.names


def test_a_job_goes_on_with_the_parts_that_are_missing(run: str, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = BatchJob(ensemble=run, data=data, out=str(out), mode="pruned", combiner="mean")
    predict_all(job, address="none")
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(whole) == [*PARTS[:2], "predictions.json"]
    (out / PARTS[0]).unlink()
    kept = (out / PARTS[1]).stat().st_mtime_ns
    assert predict_all(job, address="none").found == 1
    assert (out / PARTS[1]).stat().st_mtime_ns == kept
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert predict_all(job, address="none").found == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"k": 4}, r"k=3 \(now 4\)"),
        ({"mode": "candidates"}, r"mode=exact \(now candidates\)"),
        ({"combiner": "mean"}, r"combiner=log \(now mean\)"),
        ({"keep": ("id",)}, r"keep=\[\] \(now \['id'\]\)"),
    ],
)
def test_the_folder_of_another_job_is_left_alone(
    run: str, data: str, tmp_path: Path, words: dict[str, object], message: str
) -> None:
    asked = {"ensemble": run, "data": data, "out": str(tmp_path / "out"), "k": 3}
    predict_all(BatchJob(**asked), address="none")  # type: ignore[arg-type]
    before = read(tmp_path / "out")
    with pytest.raises(RunError, match=f"found those of another: {message}"):
        predict_all(BatchJob(**{**asked, **words}), address="none")  # type: ignore[arg-type]
    assert read(tmp_path / "out").equals(before)


@pytest.mark.parametrize("name", ["0.parquet", "3.parquet"])
def test_shards_that_changed_or_came_meanwhile_are_refused(
    run: str, data: str, tmp_path: Path, name: str
) -> None:
    job = BatchJob(ensemble=run, data=data, out=str(tmp_path / "out"))
    predict_all(job, address="none")
    write(Path(data, name), searches(5))
    with pytest.raises(RunError, match=r"expected the shards that .* has the answers of"):
        predict_all(job, address="none")


def test_a_row_that_cannot_be_asked_is_named(run: str, tmp_path: Path) -> None:
    rows = searches(50).set_column(0, "query", [["a"] * 41 + [None] + ["b"] * 8])
    write(tmp_path / "rows" / "0.parquet", rows, rows=20)
    job = BatchJob(ensemble=run, data=str(tmp_path / "rows"), out=str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"0\.parquet, row group 2, row 1: .* found null"):
        predict_all(job, address="none")
    assert not list((tmp_path / "out").glob("part-*"))


def test_columns_that_may_not_be_null_can_be_kept(run: str, tmp_path: Path) -> None:
    schema = pa.schema([pa.field("query", pa.string()), pa.field("id", pa.int32(), nullable=False)])
    write(tmp_path / "rows" / "0.parquet", pa.table({"query": ["a"], "id": [7]}, schema=schema))
    out = tmp_path / "out"
    job = BatchJob(ensemble=run, data=str(tmp_path / "rows"), out=str(out), keep=("id",))
    predict_all(job, address="none")
    assert read(out)["id"].to_pylist() == [7]


def test_paths_are_those_of_the_caller_s_folder(
    run: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predict_all(BatchJob(ensemble=run, data="rows", out="out"), address="none")
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert Path(told["ensemble"]).is_absolute()
    assert len(list((tmp_path / "out").glob("part-*"))) == 2


def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    run: str, data: str, tmp_path: Path
) -> None:
    def refused(error: type[Exception], message: str, **words: object) -> None:
        asked = {"ensemble": run, "data": data, "out": str(tmp_path / "out"), **words}
        with pytest.raises(error, match=message):
            predict_all(BatchJob(**asked), address="none")  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()

    refused(DataError, "k: expected at least 1 class a row, found 0", k=0)
    refused(ConfigError, "mode: expected one of exact", mode="all")
    refused(ConfigError, "combiner: expected one of mean", combiner="max")
    refused(ConfigError, "keep: expected each column once, found id twice", keep=("id", "id"))
    refused(DataError, "expected a column 'price' to keep, found only query", keep=("price",))
    refused(StorageError, "found neither", ensemble=str(tmp_path / "nothing"))
    write(tmp_path / "other" / "a.parquet", pa.table({"text": ["a"]}))
    refused(DataError, "expected a column 'query'", data=str(tmp_path / "other"))
    write(tmp_path / "taken" / "a.parquet", searches(3).append_column("scores", [[1, 2, 3]]))
    refused(
        ConfigError,
        "expected columns of other names than those of the answers, found scores",
        data=str(tmp_path / "taken"),
        keep=("scores",),
    )


def test_the_job_s_file_must_say_what_was_asked(run: str, data: str, tmp_path: Path) -> None:
    job = BatchJob(ensemble=run, data=data, out=str(tmp_path / "out"))
    predict_all(job, address="none")
    (tmp_path / "out" / "predictions.json").write_text('{"schema": 1}')
    with pytest.raises(StorageError, match="expected what was asked, found a file without"):
        predict_all(job, address="none")


def test_another_ensemble_is_another_job(run: str, data: str, tmp_path: Path) -> None:
    mine = copied(Path(run), tmp_path / "run", merged=True)
    job = BatchJob(ensemble=str(mine), data=data, out=str(tmp_path / "out"))
    predict_all(job, address="none")
    assert manyworlds("merge", str(mine), "--weights", "bf16").code == 0
    with pytest.raises(RunError, match="found those of another: digest="):
        predict_all(job, address="none")


def test_the_verb_predict_answers_a_data_set(run: str, data: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    words = ("predict", run, f"data={data}", f"out={out}", "cluster=none", "keep=id", "--k", "2")
    ended = manyworlds(*words)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0] == "103 rows answered in 2 parts"
    assert np.shape(read(Path(out))["classes"].to_pylist()) == (103, 2)
    assert "2 parts of them there before" in manyworlds(*words).out
    ended = manyworlds("predict", run, f"data={data}", f"out={out}", "kep=id")
    assert "kep=id: expected one of data, out" in ended.err and "did you mean keep=" in ended.err
    ended = manyworlds("predict", run, f"data={data}")
    assert "expected out=PATH beside data=PATH" in ended.err
    ended = manyworlds(*words, "--json")
    assert "expected no --json where answers go to out=" in ended.err
