"""What an ensemble answers, against the plain definition of MACH."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from orchestrator import Ensemble
from orchestrator.ensemble import ClassLists
from orchestrator.ensemble.ensemble import QUERIES
from tests.orchestrator.builders import (
    CLASSES,
    named_classes,
    run_config,
    searches,
    trained,
    write,
)
from tests.test_house_rules import run_without
from workers.errors import ConfigError, DataError
from workers.features import Featurizer
from workers.partition import partition_for

COMBINERS = ("mean", "log", "min", "median")
Floats = NDArray[np.float32]


def visits(rows: int, seed: int = 0) -> pa.Table:
    """Return rows of all kinds of numbers: columns visited, times, place, labels."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = rng.integers(-(2**60), 2**60, offsets[-1])
    times = rng.random(offsets[-1], np.float32) + np.float32(0.1)
    places = pa.array(rng.random(3 * rows, np.float32))
    return pa.table(
        {
            "visited": pa.ListArray.from_arrays(offsets, ids),
            "times": pa.ListArray.from_arrays(offsets, times),
            "place": pa.FixedSizeListArray.from_arrays(places, 3),
            "labels": rng.integers(0, CLASSES, rows),
        }
    )


@dataclass(frozen=True)
class Case:
    """A run of three worlds, and rows to ask about."""

    run: str
    rows: pa.Table


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return a run on texts, of linear classifiers; its classes have names."""
    folder = tmp_path_factory.mktemp("texts")
    names = write(folder / "names.parquet", named_classes())
    config = run_config(folder, f"data.class_names={names}", "model.activation=linear")
    return Case(str(trained(config)), searches(12, 5))


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return a run on sparse and dense columns: two hidden layers, classes without names."""
    folder = tmp_path_factory.mktemp("numbers")
    train = write(folder / "visits.parquet", visits(150))
    columns = ["data.text=[]", "data.indices=visited", "data.values=times", "data.dense=place"]
    config = run_config(
        folder,
        f"data.train={train}",
        *columns,
        "model.hidden=[8,6]",
        "model.activation=relu",
        "model.loss=bce",
        "partition.kind=hash",
        "merge.combiner=median",
    )
    return Case(str(trained(config)), visits(12, 5))


@pytest.fixture(scope="module")
def hashed(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return a run of worlds in which hash tables choose the neurons of a row, of all layers."""
    lsh = "model.active=0.4", "model.lsh.narrowest=8", "model.lsh.tables=5"
    network = "model.hidden=[16,10]", "model.activation=relu"
    config = run_config(tmp_path_factory.mktemp("hashed"), *lsh, *network)
    return Case(str(trained(config)), searches(12, 5))


@pytest.fixture(params=["texts", "numbers", "hashed"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def ensemble(texts: Case) -> Ensemble:
    return Ensemble.load(texts.run, threads=1)


def bucket_probabilities(ensemble: Ensemble, world: int, table: pa.Table) -> Floats:
    """Return one world's (n, B) probabilities by the network's definition."""
    config = ensemble.config
    weights = load_file(Path(ensemble.artefact.uri, f"world-{world:03d}.safetensors"))
    batch = Featurizer(config.data, config.features, config.seed, world).batch(table, labels=False)
    hidden = np.tile(weights["input.bias"], (len(batch), 1))
    for row, (start, stop) in enumerate(
        zip(batch.feature_offsets[:-1], batch.feature_offsets[1:], strict=True)
    ):
        ids, values = batch.feature_ids[start:stop], batch.feature_values[start:stop]
        hidden[row] += values @ weights["input.weight"][ids]
    for layer in range(len(config.model.hidden)):
        if config.model.activation == "relu":
            hidden = np.maximum(hidden, 0)
        if config.model.active < 1:
            # All but the highest are as if they were not there; no two are equal but for zeros.
            some = round(config.model.active * hidden.shape[1])
            hidden = hidden * (hidden >= np.sort(hidden, axis=1)[:, -some, None])
        hidden = hidden @ weights[f"layer.{layer}.weight"].T + weights[f"layer.{layer}.bias"]
    if config.model.loss == "bce":
        return np.asarray(1 / (1 + np.exp(-hidden)), np.float32)
    powers = np.exp(hidden - hidden.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)


def plain_scores(
    ensemble: Ensemble, table: pa.Table, combiner: str, worlds: int = 3
) -> NDArray[np.float64]:
    """Return the (n, K) scores of all classes: each world asked for each class's bucket."""
    config = ensemble.config
    classes = np.arange(CLASSES)
    found, chances = [], []
    for world in range(worlds):
        partition = partition_for(config.partition, CLASSES, config.seed, world)
        probabilities = bucket_probabilities(ensemble, world, table).astype(np.float64)
        found.append(probabilities[:, partition.buckets_of(classes)])
        chances.append(partition.collision_chance)
    stacked = np.stack(found)
    if combiner == "mean":
        chance = np.mean(chances)
        return np.asarray((stacked.mean(0) - chance) / (1 - chance))
    if combiner == "log":
        return np.asarray(np.log(stacked + 1e-6).mean(0))
    return np.asarray(stacked.min(0) if combiner == "min" else np.median(stacked, axis=0))


def assert_best(ids: NDArray[np.int64], scores: Floats, plain: NDArray[np.float64]) -> None:
    """Check that the answers are the best of `plain`; scores that are as good as equal may swap."""
    k = ids.shape[1]
    best = -np.sort(-plain, axis=1)[:, :k]
    for expected in (best, np.take_along_axis(plain, ids, 1)):
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)
    assert all(len(set(row)) == k for row in ids.tolist())


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("worlds", [1, 2, 3])
def test_predict_is_what_its_definition_says(case: Case, combiner: str, worlds: int) -> None:
    ensemble = Ensemble.load(case.run, threads=2)
    found = ensemble.predict(case.rows, k=7, combiner=combiner, worlds=worlds)
    assert found.ids.shape == found.scores.shape == (12, 7)
    assert found.ids.dtype == np.int64 and found.scores.dtype == np.float32
    assert_best(found.ids, found.scores, plain_scores(ensemble, case.rows, combiner, worlds))


@pytest.mark.parametrize("mode", ["pruned", "candidates"])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_all_modes_give_the_same_answers(case: Case, combiner: str, mode: str) -> None:
    ensemble = Ensemble.load(case.run, threads=2)
    wanted = ensemble.predict(case.rows, k=7, combiner=combiner)
    # So few buckets that candidates are of all of them.
    found = ensemble.predict(case.rows, k=7, combiner=combiner, mode=mode)
    assert np.array_equal(found.ids, wanted.ids) and np.array_equal(found.scores, wanted.scores)


def test_the_combiner_is_the_run_s_own_unless_told(texts: Case, numbers: Case) -> None:
    for case, own in ((texts, "log"), (numbers, "median")):
        ensemble = Ensemble.load(case.run)
        found, told = ensemble.predict(case.rows), ensemble.predict(case.rows, combiner=own)
        assert np.array_equal(found.scores, told.scores)
        assert ensemble.combiner().name == own


def test_an_ensemble_learned_what_it_was_shown(ensemble: Ensemble) -> None:
    shown = searches(200)
    best = ensemble.predict(shown, k=5).ids
    hits = [
        bool(set(row) & set(labels.as_py()))
        for row, labels in zip(best.tolist(), shown["labels"], strict=True)
    ]
    assert np.mean(hits) > 0.5


def test_all_classes_and_then_padding_where_k_is_larger(ensemble: Ensemble) -> None:
    found = ensemble.predict(["thing1"], k=CLASSES + 5)
    assert sorted(found.ids[0, :CLASSES].tolist()) == list(range(CLASSES))
    assert found.ids[0, CLASSES:].tolist() == [-1] * 5
    assert np.all(np.isneginf(found.scores[0, CLASSES:]))
    assert np.all(np.isfinite(found.scores[0, :CLASSES]))
    assert found.names is not None
    assert len(found.names[0]) == CLASSES


def test_classes_can_be_left_out_and_kept_to(ensemble: Ensemble, texts: Case) -> None:
    rows = texts.rows.slice(0, 3)
    plain = plain_scores(ensemble, rows, "log")
    first = ensemble.predict(rows, k=4).ids
    hidden = ClassLists(np.array([0, 2, 2, 4]), np.array([first[0, 0], first[0, 2], 1, 2]))
    without = plain.copy()
    without[0, first[0, [0, 2]]] = without[2, [1, 2]] = -np.inf
    found = ensemble.predict(rows, k=4, leave_out=hidden)
    assert_best(found.ids, found.scores, without)
    assert found.ids[1].tolist() == first[1].tolist()

    kept = ClassLists(np.array([0, 3, 3, 5]), np.array([5, first[0, 0], 9, 2, 3]))
    found = ensemble.predict(rows, k=2, leave_out=hidden, keep_to=kept)
    assert sorted(found.ids[0].tolist()) == [5, 9]
    assert found.ids[1:].tolist() == [[-1, -1], [3, -1]]
    assert np.isneginf(found.scores[1:]).tolist() == [[True, True], [False, True]]
    assert found.names is not None
    assert found.names[1:] == [[], ["thing 3"]]


def test_many_queries_are_answered_as_one_by_one(texts: Case) -> None:
    rows = searches(QUERIES + 40, seed=9)
    bought = rows["bought"].combine_chunks()
    lists = ClassLists(bought.offsets.to_numpy().astype(np.int64), bought.values.to_numpy())
    found = [
        Ensemble.load(texts.run, threads=threads).predict(rows, k=3, leave_out=lists)
        for threads in (1, 3)
    ]
    assert np.array_equal(found[0].ids, found[1].ids)
    assert np.array_equal(found[0].scores, found[1].scores)
    ensemble = Ensemble.load(texts.run, threads=1)
    for row in (0, QUERIES - 1, QUERIES, QUERIES + 39):
        one = ensemble.predict(rows.slice(row, 1), k=3, leave_out=lists.of(row, row + 1))
        assert one.ids[0].tolist() == found[0].ids[row].tolist()
        np.testing.assert_allclose(one.scores[0], found[0].scores[row], rtol=1e-5)


def test_texts_and_tables_are_asked_alike(ensemble: Ensemble, texts: Case) -> None:
    table = ensemble.predict(texts.rows.select(["bought", "query"]))
    words = ensemble.predict(texts.rows["query"].to_pylist())
    assert np.array_equal(table.ids, words.ids)
    assert np.array_equal(table.scores, words.scores)


@pytest.mark.parametrize("queries", [[], pa.table({"query": pa.array([], pa.string())})])
def test_no_queries_get_no_answers(ensemble: Ensemble, queries: Any) -> None:
    found = ensemble.predict(queries, k=3)
    assert found.ids.shape == found.scores.shape == (0, 3)
    assert found.names == []


def test_a_query_without_a_known_word_is_answered(ensemble: Ensemble) -> None:
    found = ensemble.predict(["", " \t", "日本"], k=2)
    assert np.all(found.ids >= 0)
    assert found.ids[0].tolist() == found.ids[1].tolist()


def test_names_are_those_of_the_ids(ensemble: Ensemble, texts: Case) -> None:
    found = ensemble.predict(texts.rows, k=3)
    assert found.names == [[f"thing {i}" for i in row] for row in found.ids.tolist()]


def test_classes_may_have_no_names(numbers: Case) -> None:
    ensemble = Ensemble.load(numbers.run)
    assert ensemble.names is None
    assert ensemble.predict(numbers.rows).names is None


def test_an_unknown_class_name_is_told_with_the_nearest(ensemble: Ensemble) -> None:
    assert ensemble.names is not None
    assert ensemble.names.ids(["thing 63", "thing 0"]).tolist() == [63, 0]
    with pytest.raises(DataError, match="found 'thinng 12'; did you mean thing 12"):
        ensemble.names.ids(["thing 3", "thinng 12"])


def test_texts_where_a_table_is_needed_are_refused(numbers: Case) -> None:
    with pytest.raises(DataError, match="table with columns visited, times, place, found texts"):
        Ensemble.load(numbers.run).predict(["thing1"])


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (["thing1", None], r"queries, row 1: expected a value in column 'query', found null"),
        (["thing1", 5], "queries: expected texts, found something else"),
        (["\ud800"], "queries: expected texts, found something else"),
        ("thing1", r"expected a list of texts, found one text 'thing1'; give \[text\]"),
        (pa.table({"text": ["thing1"]}), "expected a column 'query', found only text"),
        (pa.table({"query": [[1]]}), "expected column 'query' of type string, found list"),
    ],
)
def test_queries_that_are_none_are_refused(ensemble: Ensemble, queries: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ensemble.predict(queries)


def test_numbers_that_are_none_are_refused(numbers: Case) -> None:
    ensemble = Ensemble.load(numbers.run)
    for column, value, message in (
        ("visited", [[1, None]], "expected a value in column 'visited', found null"),
        ("times", [[1.0, float("nan")]], "expected finite numbers in column 'times', found nan"),
        ("times", [[1.0]], "expected as many values as column 'visited' has indices, 2,"),
    ):
        values = {"visited": [[1, 2]], "times": [[1.0, 1.0]], "place": [[0.0, 0.0, 0.0]]}
        arrays = {name: pa.array(item) for name, item in {**values, column: value}.items()}
        arrays["place"] = arrays["place"].cast(pa.list_(pa.float64(), 3))
        with pytest.raises(DataError, match=message):
            ensemble.predict(pa.table(arrays))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"k": 0}, DataError, "k: expected at least 1 class to return, found 0"),
        ({"worlds": 0}, DataError, "worlds: expected 1 to 3, found 0"),
        ({"worlds": 4}, DataError, "worlds: expected 1 to 3, found 4"),
        (
            {"mode": "all"},
            ConfigError,
            "mode: expected one of exact, full, pruned, candidates, found all",
        ),
        ({"combiner": "max"}, ConfigError, "combiner: expected one of mean, log, min, median"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    ensemble: Ensemble, words: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ensemble.predict(["thing1"], **words)


@pytest.mark.parametrize(
    ("offsets", "classes", "message"),
    [
        ([0, 1], [3], "expected 3 offsets that end at 1, found 2"),
        ([0, 1, 2, 3], [3, 4, 5], "expected 3 offsets that end at 3, found 4"),
        ([], [], "expected 3 offsets that end at 0, found 0"),
        ([0, 2, 1], [3], "expected offsets that begin at 0 and never fall"),
        ([1, 1, 1], [3], "expected offsets that begin at 0 and never fall"),
        ([0, 0, 1], [CLASSES], f"expected class ids from 0 to {CLASSES - 1}, found {CLASSES}"),
    ],
)
@pytest.mark.parametrize("which", ["leave_out", "keep_to"])
def test_lists_that_do_not_fit_the_queries_are_refused(
    ensemble: Ensemble, which: str, offsets: list[int], classes: list[int], message: str
) -> None:
    lists: Any = ClassLists(np.array(offsets, np.int64), np.array(classes, np.int64))
    with pytest.raises(DataError, match=message):
        ensemble.predict(["thing1", "thing2"], **{which: lists})


def test_an_ensemble_answers_where_ray_is_not_installed(ensemble: Ensemble, texts: Case) -> None:
    code = f"""
from orchestrator import Ensemble
print(Ensemble.load({texts.run!r}, threads=1).predict(["thing1 and thing2"], k=3).ids.tolist())
"""
    ended = run_without(("ray",), code)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(ensemble.predict(["thing1 and thing2"], k=3).ids.tolist())
