"""Answers for a whole data set, on a Ray cluster of this file's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from orchestrator.batch import BatchJob, predict_all
from orchestrator.executors.cluster import connect
from tests.orchestrator.builders import run_config, searches, trained, write
from workers.errors import DataError


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    assert connect("local", {"num_cpus": 1, "num_gpus": 0})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(trained(run_config(tmp_path_factory.mktemp("source"))))


def test_ray_data_writes_what_one_process_writes(cluster: None, run: str, tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "rows" / f"{number}.parquet", searches(20 + number, seed=number))
    asked = {"ensemble": run, "data": str(tmp_path / "rows"), "k": 3}
    predict_all(BatchJob(out=str(tmp_path / "here"), **asked), address="none")  # type: ignore[arg-type]
    found = predict_all(BatchJob(out=str(tmp_path / "there"), **asked))  # type: ignore[arg-type]
    assert (found.rows, found.parts, found.found) == (86, 4, 0)
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("part-*")}
        for name in ("here", "there")
    )
    assert len(here) == 4 and here == there


def test_what_a_predictor_finds_wrong_is_told_in_its_words(
    cluster: None, run: str, tmp_path: Path
) -> None:
    rows = searches(5)
    nothing = rows.set_column(0, "query", [["a", None, "b", "c", "d"]])
    write(tmp_path / "rows" / "0.parquet", nothing)
    job = BatchJob(ensemble=run, data=str(tmp_path / "rows"), out=str(tmp_path / "out"))
    with pytest.raises(DataError, match="found null"):
        predict_all(job)
