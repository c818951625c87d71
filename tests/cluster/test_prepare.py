from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.prepare import prepare
from tests.orchestrator.prepare.test_prepare import bytes_of, job, raw_rows, write
from workers.errors import DataError


def test_a_cluster_makes_the_same_bytes_as_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if files were large: they are cut by other processes.
    monkeypatch.setattr("orchestrator.prepare.job._FEW_BYTES", 0)
    write(tmp_path / "raw", raw_rows(200))
    here = prepare(job(tmp_path, "here"), address="none")
    there = prepare(job(tmp_path, "there"), address="local")
    assert here == there
    assert bytes_of(tmp_path / "here") == bytes_of(tmp_path / "there")


def test_what_is_wrong_with_a_piece_is_told(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    # The first file is looked at before there is a cluster.
    (tmp_path / "raw" / "a.csv").write_text("q,c,w\na,b,1\n")
    (tmp_path / "raw" / "b.csv").write_text("query,item\na,b\n")
    with pytest.raises(DataError, match=r"b\.csv: expected a column 'q' in its first line"):
        prepare(job(tmp_path), address="local")
