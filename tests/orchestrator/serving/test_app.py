"""What the service answers, and what it refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from orchestrator import Ensemble
from orchestrator.serving.answering import Answerer, Way
from orchestrator.serving.app import make_app
from orchestrator.serving.settings import ServingConfig
from tests.orchestrator.builders import copied, run_config, trained, write
from workers.errors import StorageError

QUERIES = ["thing1", "thing7 and thing63"]


def asked(client: TestClient, **body: Any) -> Any:
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, path: str, body: Any, status: int) -> str:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert isinstance(error, str)
    return error


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"k": 1},
        {"combiner": "mean"},
        {"combiner": "min", "worlds": 2},
        {"mode": "full", "k": 50},
        {"mode": "candidates"},
    ],
)
def test_answers_are_those_of_the_ensemble(
    run: Path, client: TestClient, way: dict[str, Any]
) -> None:
    ensemble = Ensemble.load(str(run), threads=1)
    wanted = ensemble.predict(QUERIES, **{"k": 10, **way})
    found = asked(client, texts=QUERIES, **way)
    assert found["ensemble"] == ensemble.manifest.digest
    ids = [[one["id"] for one in row] for row in found["answers"]]
    assert ids == wanted.ids.tolist()
    assert [[one["name"] for one in row] for row in found["answers"]] == wanted.names
    scores = np.array([[one["score"] for one in row] for row in found["answers"]])
    np.testing.assert_array_equal(scores.astype(np.float32), wanted.scores)


def test_rows_are_answered_as_texts_are(client: TestClient) -> None:
    rows = [{"query": text} for text in QUERIES]
    assert asked(client, rows=rows) == asked(client, texts=QUERIES)


def test_numbers_are_answered_as_tables_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    visited = [rng.choice(40, 3, replace=False).tolist() for _ in range(100)]
    place = pa.array(rng.random((100, 2)).tolist(), pa.list_(pa.float32(), 2))
    columns = {"visited": visited, "times": [[1.0, 2.0, 0.5]] * 100, "place": place}
    rows = pa.table({**columns, "labels": [one[:1] for one in visited]})
    train = write(tmp_path / "numbers.parquet", rows)
    inputs = ["data.text=[]", "data.indices=visited", "data.values=times", "data.dense=place"]
    made = trained(run_config(tmp_path, f"data.train={train}", *inputs))
    asked_rows = rows.slice(0, 3).drop_columns("labels").to_pylist()
    wanted = Ensemble.load(str(made), threads=1).predict(rows.slice(0, 3))
    with TestClient(make_app(ServingConfig(ensemble=str(made)))) as client:
        kinds = {"visited": "indices", "times": "values", "place": "dense"}
        assert client.get("/about").json()["columns"] == kinds
        found = asked(client, rows=asked_rows)["answers"]
        assert [[one["id"] for one in row] for row in found] == wanted.ids.tolist()
        assert [one["name"] for one in found[0]] == [None] * 10
        wrong: dict[str, Any]
        for wrong in (
            {"visited": [0.5]},
            {"visited": [2**70]},
            {"times": "a"},
            {"place": None},
            {"times": [1e300, 1.0, 1.0]},
        ):
            refused(client, "/predict", {"rows": [{**asked_rows[0], **wrong}]}, 400)
        longer = {"rows": [{**asked_rows[0], "place": [1.0, 2.0, 3.0]}]}
        told = refused(client, "/predict", longer, 400)
        assert "expected vectors of 2 numbers in column 'place', as in training, found 3" in told
        ragged = [asked_rows[0], {**asked_rows[0], "place": [1.0]}]
        assert "expected values that fit" in refused(client, "/predict", {"rows": ragged}, 400)
        assert "found texts" in refused(client, "/predict", {"texts": ["a"]}, 400)
        named = {"row": asked_rows[0], "name": "thing"}
        assert "classes have no names" in refused(client, "/explain", named, 400)


def test_an_explanation_is_what_the_worlds_say(run: Path, client: TestClient) -> None:
    ensemble = Ensemble.load(str(run), threads=1)
    best = asked(client, texts=["thing1"], k=1)["answers"][0][0]
    body = {"text": "thing1", "class_id": best["id"]}
    found = client.post("/explain", json=body).json()
    assert found["class"]["name"] == best["name"]
    assert found["class"]["score"] == pytest.approx(best["score"], abs=1e-6)
    ((_, _, parts),) = ensemble.probabilities(ensemble.table(["thing1"]))
    assert [vote["world"] for vote in found["votes"]] == [0, 1, 2]
    for vote, part, partition in zip(
        found["votes"], parts, ensemble.lookup.partitions, strict=True
    ):
        row = part.numpy()[0]
        assert vote["bucket"] == partition.buckets_of(np.array([best["id"]]))[0]
        assert vote["probability"] == pytest.approx(float(row[vote["bucket"]]))
        assert vote["rank"] == 1 + int((row > row[vote["bucket"]]).sum())
        sharing = partition.classes_of(vote["bucket"]).tolist()
        assert vote["sharing"] == len(sharing)
        ids = [one["id"] for one in vote["neighbours"]]
        assert ids == [one for one in sharing if one != best["id"]][:6]
        assert [one["name"] for one in vote["neighbours"]] == [f"thing {one}" for one in ids]


def test_a_class_is_explained_by_its_name_too(client: TestClient) -> None:
    by_name = client.post("/explain", json={"text": "thing1", "name": "thing 1", "worlds": 2})
    by_id = client.post("/explain", json={"text": "thing1", "class_id": 1, "worlds": 2})
    assert by_name.json() == by_id.json()
    assert len(by_id.json()["votes"]) == 2


def test_it_tells_what_it_serves(client: TestClient, run: Path) -> None:
    about = client.get("/about").json()
    assert about["ensemble"] == (run / "ensembles" / "CURRENT").read_text().strip()
    assert (about["classes"], about["worlds"], about["buckets"]) == (64, 3, 16)
    assert about["named"] and about["texts"] and not about["needs_token"]
    assert about["columns"] == {"query": "text"}
    assert client.get("/health").json()["status"] == "alive"
    assert client.get("/ready").json() == {"status": "ready", "trouble": None}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "expected texts or rows, found both or neither"),
        ({"texts": ["a"], "rows": [{"query": "a"}]}, 422, "both or neither"),
        ({"texts": []}, 422, "texts"),
        ({"texts": ["a"], "k": 0}, 422, "k: expected to be|k: expected"),
        ({"texts": ["a"], "k": 10**9}, 400, "k: expected at most 50, found 1,000,000,000"),
        ({"texts": ["a"], "k": "many"}, 422, "k: expected .*, found 'many'"),
        ({"texts": ["a"] * 9}, 400, "queries: expected at most 8, found 9"),
        ({"texts": [7]}, 422, "texts.0: expected a valid string, found 7"),
        ({"texts": "a"}, 422, "texts: expected a valid list, found 'a'"),
        ({"texts": ["a"], "combiner": "max"}, 422, "combiner: expected 'mean'"),
        ({"texts": ["a"], "worlds": 9}, 400, "worlds: expected 1 to 3, found 9"),
        ({"texts": ["a"], "kk": 3}, 422, "kk: expected no such field"),
        ({"rows": [{"text": "a"}]}, 400, "rows: expected query in each"),
        ({"rows": [{"query": None}]}, 400, "expected"),
        ({"rows": [{"query": [1, 2]}]}, 400, "expected"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    client: TestClient, body: Any, status: int, words: str
) -> None:
    assert re.search(words, refused(client, "/predict", body, status))


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"text": "a"}, 422, "class_id or name"),
        ({"class_id": 1}, 422, "text or row"),
        ({"text": "a", "class_id": 64}, 400, "class_id: expected 0 to 63, found 64"),
        ({"text": "a", "class_id": -1}, 422, "class_id"),
        ({"text": "a", "class_id": 10**30}, 400, "class_id: expected 0 to 63"),
        ({"text": "a", "name": "nothing"}, 400, "expected the name of a class, found 'nothing'"),
    ],
)
def test_explanations_of_what_is_not_there_are_refused(
    client: TestClient, body: Any, status: int, words: str
) -> None:
    assert words in refused(client, "/explain", body, status)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"texts": ["\xff"]}',
        b"[" * 5000,
        b'{"texts": [NaN]}',
        b"null",
        b'{"texts": ["\\ud800"]}',
    ],
)
def test_bodies_that_are_no_json_are_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert "expected" in answer.json()["error"]


def test_other_paths_and_methods_are_refused_in_json(client: TestClient) -> None:
    assert client.get("/nothing").status_code == 404
    assert "/nothing" in client.get("/nothing").json()["error"]
    assert client.get("/predict").status_code == 405
    assert "found GET" in client.get("/predict").json()["error"]


def test_requests_are_counted(client: TestClient) -> None:
    asked(client, texts=QUERIES)
    told = client.get("/metrics").text
    assert 'manyworlds_serve_requests_total{path="/predict",status="200"}' in told
    assert "manyworlds_serve_batch_bucket" in told


def test_a_body_of_no_type_is_told_which_it_needs(client: TestClient) -> None:
    # As curl -d sends it.
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = client.post("/predict", content=b'{"texts": ["a"]}', headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("expected the header content-type: application/json")


def test_nobody_is_sent_to_another_path(client: TestClient) -> None:
    # Where TLS ends before the service, that would be one without TLS.
    answer = client.post("/predict/", json={"texts": ["a"]}, follow_redirects=False)
    assert answer.status_code == 404
    assert "found /predict/" in answer.json()["error"]


def test_a_fault_of_the_service_is_told_in_json(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answerer, "predict", lambda *_: 1 / 0)
    app = make_app(ServingConfig(ensemble=str(run), cpus=1))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert "found a fault of the service" in refused(client, "/predict", {"texts": ["a"]}, 500)


def test_a_token_is_asked_for(run: Path) -> None:
    config = ServingConfig(ensemble=str(run), cpus=1, token="env:UNUSED")
    with TestClient(make_app(config, token="wanted")) as client:
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "wanted"}):
            answer = client.post("/predict", json={"texts": ["a"]}, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer" in answer.json()["error"]
        headers = {"authorization": "Bearer wanted"}
        assert client.post("/predict", json={"texts": ["a"]}, headers=headers).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/ready").status_code == 200
        assert client.get("/about").json()["needs_token"]


def test_bodies_are_bounded(run: Path) -> None:
    config = ServingConfig(ensemble=str(run), cpus=1, most_bytes=2048)
    with TestClient(make_app(config)) as client:
        long = {"texts": ["a" * 3000]}
        assert "at most 2,048 bytes" in refused(client, "/predict", long, 413)

        def parts() -> Any:
            yield b'{"texts": ["'
            for _ in range(30):
                yield b"a" * 100
            yield b'"]}'

        # Without a length that could be looked at first.
        answer = client.post("/predict", content=parts())
        assert answer.status_code == 413


def test_the_next_ensemble_takes_over(tmp_path: Path, run: Path) -> None:
    mine = copied(run, tmp_path / "run", merged=True)
    answerer = Answerer(str(mine), threads=1)
    old = answerer.digest
    assert not answerer.refresh()
    other = trained(run_config(tmp_path / "other", "seed=5"))
    new = (other / "ensembles" / "CURRENT").read_text().strip()
    before = answerer.predict(answerer.table(["thing1"]), Way(3))
    (mine / "ensembles" / "CURRENT").write_text(new)
    assert not answerer.refresh()
    assert new in str(answerer.trouble)
    assert answerer.predict(answerer.table(["thing1"]), Way(3)) == before
    shutil.copytree(other / "ensembles" / new, mine / "ensembles" / new)
    assert answerer.refresh()
    assert answerer.digest == new
    assert answerer.trouble is None
    assert answerer.predict(answerer.table(["thing1"]), Way(3)).ensemble == new != old


def test_the_old_ensemble_goes_on_whatever_is_wrong_with_the_next(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = copied(run, tmp_path / "run", merged=True)
    other = trained(run_config(tmp_path / "other", "seed=5"))
    new = (other / "ensembles" / "CURRENT").read_text().strip()
    shutil.copytree(other / "ensembles" / new, mine / "ensembles" / new)
    answerer = Answerer(str(mine), threads=1)
    (mine / "ensembles" / "CURRENT").write_text(new)

    def full(*words: Any, **more: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Ensemble, "load", full)
        assert not answerer.refresh()
    assert "CUDA out of memory" in str(answerer.trouble)
    assert len(answerer.predict(answerer.table(["thing1"]), Way(3)).rows[0]) == 3
    assert answerer.refresh()
    assert (answerer.digest, answerer.trouble) == (new, None)


def test_what_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    config = ServingConfig(ensemble=str(tmp_path / "nothing"), cpus=1)
    with pytest.raises(StorageError, match="expected a run or an ensemble"):
        make_app(config)
