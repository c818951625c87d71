"""Ensembles of an object store: one copy a machine, which the next one replaces."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.serving.answering import Answerer, Way
from tests.orchestrator.builders import run_config, trained
from tests.workers.object_store import ENVIRONMENT, Proxy, s3_server
from workers.errors import StorageError


def test_replicas_share_a_copy_until_another_ensemble_takes_over(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trained(run_config(tmp_path / "other", "seed=5"))
    new = (other / "ensembles" / "CURRENT").read_text().strip()
    copies = str(tmp_path / "copies")
    with s3_server(tmp_path / "s3") as port:
        store = Proxy(port, tmp_path / "s3")
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": store.url}.items():
            monkeypatch.setenv(name, value)
        mine = store.folder / "run"
        shutil.copytree(run, mine)
        first = Answerer(store.uri(), threads=1, folder=copies)
        store.requests.clear()
        second = Answerer(store.uri(), threads=1, folder=copies)
        # The weights were fetched once.
        assert not [one for one in store.requests if "world-" in one.path and one.method == "GET"]
        query = first.table(["thing1"])
        alone = Answerer(str(run), threads=1)
        assert first.predict(query, Way(3)) == alone.predict(query, Way(3))
        assert second.predict(query, Way(3)) == alone.predict(query, Way(3))
        shutil.copytree(other / "ensembles" / new, mine / "ensembles" / new)
        (mine / "ensembles" / "CURRENT").write_text(new)
        old = first.digest
        assert first.refresh() and second.refresh()
        assert first.digest == second.digest == new
        kept = {path.name for path in Path(copies).iterdir() if path.is_dir()}
        assert kept == {new} and old != new
        store.close()


def test_a_copy_that_was_altered_is_fetched_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path / "s3") as port:
        store = Proxy(port, tmp_path / "s3")
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": store.url}.items():
            monkeypatch.setenv(name, value)
        shutil.copytree(run, store.folder / "run")
        digest = Answerer(store.uri(), threads=1, folder=str(tmp_path)).digest
        weights = tmp_path / digest / "world-001.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1])
        Answerer(store.uri(), threads=1, folder=str(tmp_path))
        assert weights.read_bytes() == whole
        store.close()


def test_a_folder_that_cannot_hold_copies_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with s3_server(tmp_path / "s3") as port:
        store = Proxy(port, tmp_path / "s3")
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": store.url}.items():
            monkeypatch.setenv(name, value)
        shutil.copytree(run, store.folder / "run")
        with pytest.raises(StorageError, match="expected a folder for copies of ensembles"):
            Answerer(store.uri(), threads=1, folder=str(tmp_path / "file"))
        store.close()
