"""What is measured, against what `predict` answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from orchestrator import Ensemble
from orchestrator.ensemble import ClassLists, curve, evaluate
from orchestrator.ensemble.evaluation import class_counts
from orchestrator.ensemble.metrics import evaluate_ranking
from tests.orchestrator.builders import CLASSES, run_config, searches, trained, write
from workers.errors import ConfigError, DataError

ROWS = 300
KS = (1, 3, 10)
Ids = NDArray[np.int64]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """Return an ensemble of three worlds."""
    folder = tmp_path_factory.mktemp("source")
    return Ensemble.load(str(trained(run_config(folder))), threads=1)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Return rows to measure on, every seventh without labels."""
    table = searches(ROWS, seed=7)
    labels = [[] if i % 7 == 0 else row for i, row in enumerate(table["labels"].to_pylist())]
    return table.set_column(1, "labels", pa.array(labels, pa.list_(pa.int64())))


@pytest.fixture
def data(rows: pa.Table, tmp_path: Path) -> str:
    """Return a folder with the rows in two shards of small row groups."""
    write(tmp_path / "rows" / "a.parquet", rows.slice(0, 270), rows=265)
    write(tmp_path / "rows" / "b.parquet", rows.slice(270), rows=16)
    return str(tmp_path / "rows")


def lists(column: pa.ChunkedArray) -> tuple[Ids, Ids]:
    values = column.to_pylist()
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in values])]).astype(np.int64)
    return offsets, np.array([item for row in values for item in row], np.int64)


def measured(ensemble: Ensemble, rows: pa.Table, **words: Any) -> dict[str, float]:
    """Return the metrics of what `predict` answers."""
    ids = ensemble.predict(rows, k=max(KS), **words).ids
    return evaluate_ranking(ids, *lists(rows["labels"]), ks=KS)


@pytest.mark.parametrize("combiner", ["mean", "log", "min", "median"])
def test_metrics_are_those_of_the_answers(
    ensemble: Ensemble, rows: pa.Table, data: str, combiner: str
) -> None:
    found = evaluate(ensemble, data, ks=KS, combiners=[combiner])
    assert list(found.metrics) == [(combiner, worlds) for worlds in (1, 2, 3)]
    for (_, worlds), metrics in found.metrics.items():
        wanted = measured(ensemble, rows, combiner=combiner, worlds=worlds)
        assert metrics == pytest.approx(wanted)
    assert found.rows == ROWS


def test_rows_without_labels_are_counted(ensemble: Ensemble, data: str) -> None:
    (metrics, *_) = evaluate(ensemble, data, ks=KS).metrics.values()
    empty = len(range(0, ROWS, 7))
    assert (metrics["rows"], metrics["rows_without_labels"]) == (ROWS - empty, empty)


def test_frequencies_tell_what_rare_classes_count(
    ensemble: Ensemble, rows: pa.Table, data: str
) -> None:
    train = ensemble.config.data.train
    found = evaluate(ensemble, data, ks=KS, frequencies=train).metrics["log", 3]
    shown = pq.read_table(train)["labels"].to_pylist()
    counts = np.bincount([c for row in shown for c in set(row)], minlength=CLASSES)
    wanted = evaluate_ranking(
        ensemble.predict(rows, k=max(KS), combiner="log").ids,
        *lists(rows["labels"]),
        ks=KS,
        counts=counts,
        training_rows=len(shown),
    )
    assert found == pytest.approx(wanted)
    assert {"PSP@3", "head R@3", "torso R@3", "tail R@3"} <= set(found)


def test_a_row_counts_once_for_each_class_it_has(ensemble: Ensemble, tmp_path: Path) -> None:
    rows = pa.table({"labels": [[5, 5], [3, 5], []]})
    uri = write(tmp_path / "rows.parquet", rows)
    counts, total = class_counts(uri, ensemble.config.data)
    assert (counts[5], counts[3], counts.sum(), total) == (2, 1, 3, 3)


def test_frequencies_need_the_labels_column(ensemble: Ensemble, data: str, tmp_path: Path) -> None:
    uri = write(tmp_path / "rows.parquet", pa.table({"query": ["a"]}))
    with pytest.raises(DataError, match=r"rows\.parquet: expected a column 'labels'"):
        evaluate(ensemble, data, frequencies=uri)


def test_the_ensemble_s_own_combiner_is_measured_unless_told(ensemble: Ensemble, data: str) -> None:
    assert {name for name, _ in evaluate(ensemble, data, ks=[1], limit=20).metrics} == {"log"}
    found = evaluate(ensemble, data, ks=[1], combiners=["min", "log"], worlds=[3, 1, 3], limit=20)
    assert list(found.metrics) == [("min", 1), ("min", 3), ("log", 1), ("log", 3)]


@pytest.mark.parametrize(
    ("worlds", "wanted"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])],
)
def test_the_curve_doubles_up_to_all_worlds(worlds: int, wanted: list[int]) -> None:
    assert curve(worlds) == wanted


@pytest.mark.parametrize("limit", [1, 256, 268, ROWS, 10 * ROWS])
def test_a_limit_takes_the_first_rows(
    ensemble: Ensemble, rows: pa.Table, data: str, limit: int
) -> None:
    labelled = rows.set_column(1, "labels", searches(ROWS, seed=8)["labels"])
    write(Path(data, "a.parquet"), labelled.slice(0, 270), rows=265)
    write(Path(data, "b.parquet"), labelled.slice(270), rows=16)
    told: list[tuple[int, int]] = []
    found = evaluate(
        ensemble,
        data,
        ks=KS,
        worlds=[3],
        limit=limit,
        progress=lambda done, total: told.append((done, total)),
    )
    count = min(limit, ROWS)
    assert found.rows == count
    assert found.metrics["log", 3] == pytest.approx(measured(ensemble, labelled.slice(0, limit)))
    assert told[-1] == (count, count)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_what_a_row_must_not_be_given_is_left_out(
    ensemble: Ensemble, rows: pa.Table, data: str
) -> None:
    found = evaluate(ensemble, data, ks=KS, worlds=[2], leave_out="bought").metrics["log", 2]
    without = ClassLists(*lists(rows["bought"]))
    assert found == pytest.approx(measured(ensemble, rows, worlds=2, leave_out=without))
    hidden = evaluate(ensemble, data, ks=KS, worlds=[2], leave_out="labels").metrics["log", 2]
    assert hidden["R@10"] == 0 < found["R@10"]


def test_one_class_a_row_can_be_left_out(
    ensemble: Ensemble, rows: pa.Table, tmp_path: Path
) -> None:
    last = pa.array(np.arange(ROWS) % CLASSES)
    data = write(tmp_path / "rows.parquet", rows.append_column("last", last), rows=100)
    found = evaluate(ensemble, data, ks=KS, worlds=[3], leave_out="last").metrics["log", 3]
    without = ClassLists(np.arange(ROWS + 1), last.to_numpy())
    assert found == pytest.approx(measured(ensemble, rows, leave_out=without))


def test_more_classes_can_be_asked_for_than_there_are(ensemble: Ensemble, data: str) -> None:
    found = evaluate(ensemble, data, ks=[CLASSES + 9], worlds=[3], limit=30)
    assert found.metrics["log", 3][f"R@{CLASSES + 9}"] == 1


@pytest.mark.parametrize("shard", ["a.parquet", "b.parquet"])
def test_a_missing_column_to_leave_out_is_named(
    ensemble: Ensemble, rows: pa.Table, data: str, shard: str
) -> None:
    path = write(Path(data, shard), rows.drop_columns("bought"), rows=150)
    message = rf"{path}: expected a column 'bought' .* found only query, labels"
    with pytest.raises(DataError, match=message):
        evaluate(ensemble, data, leave_out="bought")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([["a"]] * 9), "expected column 'x' of type list<int>, found list<"),
        (pa.array(["a"] * 9), "expected column 'x' of type list<int>, found string"),
        (pa.array([0.5] * 9), "expected column 'x' of type list<int>, found double"),
        (pa.array([[1]] * 8 + [None]), "column 'x': expected lists of classes, found null"),
        (pa.array([[1]] * 8 + [[1, None]]), "column 'x': expected lists of classes, found null"),
        (pa.array([1] * 8 + [None]), "column 'x': expected lists of classes, found null"),
        (pa.array([[CLASSES]] * 9), f"expected class ids from 0 to {CLASSES - 1}, found {CLASSES}"),
        (pa.array([[-1]] * 9), f"expected class ids from 0 to {CLASSES - 1}, found -1"),
    ],
)
def test_a_column_to_leave_out_must_hold_classes(
    ensemble: Ensemble, tmp_path: Path, column: pa.Array, message: str
) -> None:
    data = write(tmp_path / "rows.parquet", searches(9).append_column("x", column), rows=9)
    with pytest.raises(DataError, match=message):
        evaluate(ensemble, data, leave_out="x")


def test_rows_must_have_the_columns_of_training(ensemble: Ensemble, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.parquet", searches(9).drop_columns("labels"), rows=9)
    with pytest.raises(DataError, match=r"rows\.parquet: expected a column 'labels'"):
        evaluate(ensemble, data)


def test_labels_must_be_classes(ensemble: Ensemble, tmp_path: Path) -> None:
    table = pa.table({"query": ["thing1", "thing2"], "labels": [1, CLASSES]})
    data = write(tmp_path / "rows.parquet", table)
    with pytest.raises(DataError, match=r"row group 0, row 1: expected labels in \[0, 64\)"):
        evaluate(ensemble, data)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"worlds": [1, 4]}, DataError, "worlds: expected 1 to 3, found 4"),
        ({"worlds": [0]}, DataError, "worlds: expected 1 to 3, found 0"),
        ({"combiners": ["log", "max"]}, ConfigError, "combiner: expected one of mean, log"),
        ({"ks": [0]}, DataError, r"expected ks of at least 1, found \[0\]"),
        ({"ks": []}, DataError, r"expected ks of at least 1, found \[\]"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    ensemble: Ensemble, data: str, words: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(ensemble, data, **words)
