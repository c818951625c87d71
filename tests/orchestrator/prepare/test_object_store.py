"""Raw files in an object store, and shards into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.orchestrator.prepare.test_prepare import bytes_of, job, prepare, raw_rows, write
from tests.orchestrator.prepare.test_trouble import pack
from tests.workers.object_store import ENVIRONMENT, Proxy, s3_server


@pytest.mark.parametrize("packed", [False, True])
def test_an_object_store_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    write(tmp_path / "raw", raw_rows(200))
    expected = prepare(job(tmp_path, "whole"))
    with s3_server(tmp_path / "s3") as port:
        store = Proxy(port, tmp_path / "s3")
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": store.url}.items():
            monkeypatch.setenv(name, value)
        write(store.folder / "raw", raw_rows(200))
        if packed:
            pack(store.folder / "raw")
        there = replace(job(tmp_path), source=store.uri("raw"), out=store.uri("out"))
        assert prepare(there) == expected
        store.close()
    assert bytes_of(store.folder / "out") == bytes_of(tmp_path / "whole")
