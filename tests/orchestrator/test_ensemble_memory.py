from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import Ensemble, api
from orchestrator.ensemble import memory
from orchestrator.ensemble.artefact import Manifest, open_artefact
from tests.orchestrator.builders import run_config, trained
from workers.errors import StorageError


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> str:
    return api.merge(str(trained(run_config(tmp_path_factory.mktemp("run")))))


@pytest.fixture
def manifest(ensemble: str) -> Manifest:
    return open_artefact(ensemble).manifest


def in_bf16(manifest: Manifest) -> Manifest:
    training = replace(manifest.config.training, precision="bf16")
    return replace(manifest, config=replace(manifest.config, training=training))


def test_what_is_not_a_mapped_file_is_counted(manifest: Manifest) -> None:
    config = manifest.config
    hidden, buckets = config.model.hidden[-1], config.partition.buckets
    assert len(config.model.hidden) == 1
    products, lookup = 3 * hidden * buckets, 3 * 2 * config.data.classes
    narrow = in_bf16(manifest)
    # fp32 weights are copied for products in bf16, those in bf16 are used as they are.
    assert memory.own_bytes(narrow, "cpu") == 2 * products + lookup
    assert memory.own_bytes(replace(narrow, weights="bf16"), "cpu") == lookup
    assert memory.own_bytes(replace(narrow, weights="int8"), "cpu") == 2 * products + lookup
    assert memory.own_bytes(replace(narrow, weights="bf16", lookup="stored"), "cpu") == 0
    assert memory.own_bytes(narrow, "cuda") == lookup


def test_an_ensemble_that_does_not_fit_is_refused(
    ensemble: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = memory.own_bytes(manifest, "cpu")
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    Ensemble.load(ensemble, device="cpu")
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    with pytest.raises(
        StorageError, match=rf"expected .* to open it, found .*{needed - 1:,} bytes"
    ):
        Ensemble.load(ensemble, device="cpu")
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    Ensemble.load(ensemble, device="cpu")


def test_the_least_limit_counts(tmp_path: Path) -> None:
    assert memory.available_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     400 kB\n")
    assert memory.available_bytes(tmp_path) == 400 << 10
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("300000\n")
    (group / "memory.stat").write_text("anon 200000\nfile 90000\nfile_mapped 5\n")
    (group / "memory.max").write_text("max\n")
    assert memory.available_bytes(tmp_path) == 400 << 10
    (group / "memory.max").write_text("310000\n")
    assert memory.available_bytes(tmp_path) == 100_000
