from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from orchestrator import Ensemble, api
from orchestrator.ensemble.ensemble import MODES
from tests.orchestrator.builders import (
    copied,
    final,
    flip,
    named_classes,
    recommit,
    run_config,
    trained,
    write,
)
from workers.errors import ConfigError, DataError, RunError, StorageError
from workers.storage import FileEntry, Manifest, Storage, from_json, to_json


class Killed(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of three worlds, trained and merged."""
    return trained(run_config(tmp_path_factory.mktemp("source")))


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Path:
    """Return a copy of it in which nothing was merged yet."""
    return copied(source, tmp_path / "run")


def digest(uri: str) -> str:
    return uri.rpartition("/")[2]


def current(run: Path) -> str:
    return (run / "ensembles" / "CURRENT").read_text()


def unfinished(run: Path, world: int) -> tuple[Path, bytes]:
    """Let a world look as if it had not handed in yet; return what makes it look finished."""
    commit = final(run, world) / "COMMIT"
    data = commit.read_bytes()
    commit.unlink()
    return commit, data


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file with the time of its last change and its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (os.stat(path).st_mtime_ns, path.read_bytes()) for path in files}


def rewritten(run: Path, world: int, change: float) -> None:
    """Hand in other weights for a world."""
    folder = final(run, world)
    tensors = load_file(folder / "model.safetensors")
    tensors["input.bias"] += change
    recommit(folder, {"model.safetensors": save(tensors)})
    sha256 = Storage(str(folder.parent)).manifest("final").files["model.safetensors"].sha256
    edit_receipt(run, world, {"model_sha256": sha256})


def edit_receipt(run: Path, world: int, values: dict[str, Any]) -> None:
    folder = final(run, world)
    receipt = from_json((folder / "receipt.json").read_bytes(), "receipt")
    recommit(folder, {"receipt.json": to_json({**receipt, **values})})


def test_merge_gathers_the_worlds_that_are_done(run: Path) -> None:
    uri = api.merge(str(run))
    assert uri == str(run / "ensembles" / current(run))
    manifest = json.loads(Path(uri, "manifest.json").read_text())
    assert [member["world"] for member in manifest["members"]] == [0, 1, 2]
    for world, member in enumerate(manifest["members"]):
        weights = (final(run, world) / "model.safetensors").read_bytes()
        assert Path(uri, f"world-{world:03d}.safetensors").read_bytes() == weights
        receipt = json.loads((final(run, world) / "receipt.json").read_text())
        assert member["model_sha256"] == receipt["model_sha256"]
    assert "Worlds 0-2 of 3" in Path(uri, "README.md").read_text()
    Storage(str(run)).verify(f"ensembles/{current(run)}")


def test_merging_again_changes_nothing(run: Path) -> None:
    first = api.merge(str(run))
    before = snapshot(Path(first))
    assert api.merge(str(run)) == first
    assert snapshot(Path(first)) == before
    assert current(run) == digest(first)
    assert sorted(path.name for path in (run / "ensembles").iterdir()) == sorted(
        [digest(first), "CURRENT"]
    )


def test_too_few_worlds_are_refused_with_advice(run: Path) -> None:
    unfinished(run, 1)
    with pytest.raises(RunError, match="expected 3 finished worlds to merge, found 2 of 3") as e:
        api.merge(str(run))
    assert f"'manyworlds resume {run}'" in str(e.value)
    assert f"'manyworlds merge {run} --min-worlds 2'" in str(e.value)
    assert not (run / "ensembles").exists()
    with pytest.raises(RunError, match="expected 3 finished worlds to merge, found 2 of 3"):
        api.merge(str(run), min_worlds=3)


def test_where_no_world_is_done_there_is_nothing_to_merge(run: Path) -> None:
    for world in range(3):
        unfinished(run, world)
    with pytest.raises(RunError, match="found 0 of 3") as e:
        api.merge(str(run), min_worlds=1)
    assert "--min-worlds" not in str(e.value)


@pytest.mark.parametrize("min_worlds", [0, -1])
def test_an_ensemble_has_at_least_one_world(run: Path, min_worlds: int) -> None:
    with pytest.raises(ConfigError, match=f"min_worlds: expected at least 1, found {min_worlds}"):
        api.merge(str(run), min_worlds=min_worlds)


def test_a_part_says_which_worlds_are_in_it(run: Path) -> None:
    commit, data = unfinished(run, 1)
    part = api.merge(str(run), min_worlds=2)
    assert "Worlds 0, 2 of 3" in Path(part, "README.md").read_text()
    ensemble = Ensemble.load(str(run))
    assert [member.world for member in ensemble.manifest.members] == [0, 2]
    assert ensemble.manifest.worlds_of_run == 3
    assert ensemble.predict(["thing1"], k=2).ids.shape == (1, 2)

    commit.write_bytes(data)
    whole = api.merge(str(run))
    assert whole != part
    assert Ensemble.load(str(run)).worlds == 3
    assert Ensemble.load(part).worlds == 2


@pytest.mark.parametrize(("weights", "share"), [("bf16", 0.55), ("int8", 0.45)])
def test_narrow_weights_answer_alike_from_fewer_bytes(
    run: Path, weights: str, share: float
) -> None:
    whole = Ensemble.load(api.merge(str(run)))
    narrow = Ensemble.load(api.merge(str(run), weights=weights), verify="full")
    assert narrow.manifest.weights == weights
    assert narrow.manifest.digest != whole.manifest.digest
    assert narrow.manifest.members == whole.manifest.members
    size, before = (
        sum(path.stat().st_size for path in Path(one.artefact.uri).glob("world-*"))
        for one in (narrow, whole)
    )
    assert size < share * before
    table = narrow.table([f"thing{i}" for i in range(50)])
    near, exact = (
        np.concatenate([np.stack(part) for *_, part in one.probabilities(table)], axis=1)
        for one in (narrow, whole)
    )
    assert np.abs(near - exact).max() < 0.05
    assert np.abs(near - exact).max() > 0
    # Back to what they were.
    assert Ensemble.load(api.merge(str(run))).manifest.digest == whole.manifest.digest


def test_altered_weights_are_not_narrowed(run: Path) -> None:
    flip(final(run, 1) / "model.safetensors")
    with pytest.raises(StorageError, match=r"expected 9096 bytes with sha256 .*, found"):
        api.merge(str(run), weights="int8")
    assert not (run / "ensembles" / "CURRENT").exists()


def test_weights_of_another_precision_are_refused(run: Path) -> None:
    uri = Path(api.merge(str(run), weights="bf16"))
    weights = (final(run, 0) / "model.safetensors").read_bytes()
    recommit(uri, {"world-000.safetensors": weights})
    with pytest.raises(StorageError, match="expected weights in bf16, found float32"):
        Ensemble.load(str(uri))


@pytest.mark.parametrize("mode", MODES)
def test_a_stored_lookup_gives_the_same_answers(run: Path, mode: str) -> None:
    queries = [f"thing{i}" for i in range(20)]
    computed = Ensemble.load(api.merge(str(run)))
    stored = Ensemble.load(api.merge(str(run), lookup="stored"), verify="full")
    rows = np.load(Path(stored.artefact.uri, "lookup.npy"))
    assert rows.dtype == np.uint16 and rows.shape == (computed.classes, 3)
    for world, partition in enumerate(computed.lookup.partitions):
        assert np.array_equal(rows[:, world], partition.buckets_of(np.arange(computed.classes)))
    # All three of its columns, and two of them.
    for worlds in (None, 2):
        found = stored.predict(queries, 5, mode=mode, worlds=worlds)
        wanted = computed.predict(queries, 5, mode=mode, worlds=worlds)
        assert np.array_equal(found.ids, wanted.ids)
        assert np.array_equal(found.scores, wanted.scores)
    assert Ensemble.load(api.merge(str(run))).manifest.digest == computed.manifest.digest


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        (np.zeros((7, 3), np.uint16), r"expected uint16 of \(\d+, 3\), found uint16 of \(7, 3\)"),
        (None, r"expected buckets from 0 to \d+, found 60000"),
        (b"nothing", "expected a .npy file, found"),
    ],
)
def test_a_lookup_that_is_none_is_refused(
    run: Path, lookup: NDArray[np.uint16] | bytes | None, message: str
) -> None:
    uri = Path(api.merge(str(run), lookup="stored"))
    if not isinstance(lookup, bytes):
        rows = np.load(uri / "lookup.npy") if lookup is None else lookup
        rows[[0, -1], -1] = 0, 60_000
        file = io.BytesIO()
        np.save(file, rows)
        lookup = file.getvalue()
    recommit(uri, {"lookup.npy": lookup})
    with pytest.raises(StorageError, match=message):
        Ensemble.load(str(uri)).predict(["thing1"])


def test_an_unknown_precision_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected fp32 or bf16 or int8, found 'int4'"):
        api.merge(str(run), weights="int4")


def test_altered_weights_are_not_merged(run: Path) -> None:
    commit, data = unfinished(run, 1)
    old = api.merge(str(run), min_worlds=2)
    commit.write_bytes(data)
    flip(commit.parent / "model.safetensors")
    with pytest.raises(StorageError, match=r"expected sha256 .* found .* resume world 1") as e:
        api.merge(str(run))
    assert str(e.value).startswith(str(commit.parent / "model.safetensors"))
    assert current(run) == digest(old)
    assert Ensemble.load(str(run), verify="full").worlds == 2


@pytest.mark.parametrize("values", [{"steps": "many"}, {"model_sha256": None}])
def test_a_receipt_of_another_kind_is_refused(run: Path, values: dict[str, Any]) -> None:
    edit_receipt(run, 2, values)
    with pytest.raises(StorageError, match="expected the receipt of a world") as e:
        api.merge(str(run))
    assert str(e.value).startswith(str(final(run, 2) / "receipt.json"))


def test_a_crash_before_the_commit_leaves_nothing_that_opens(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(storage: Storage, folder: str, entries: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Storage, "seal", killed)
        api.merge(str(run))
    (left,) = (run / "ensembles").iterdir()
    assert (left / "manifest.json").exists()
    with pytest.raises(StorageError, match="COMMIT: expected a file, found none"):
        Ensemble.load(str(left))
    with pytest.raises(StorageError, match="found a run without one"):
        Ensemble.load(str(run))
    assert api.merge(str(run)) == str(left)
    assert Ensemble.load(str(run), verify="full").worlds == 3


def test_a_clean_meanwhile_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = Storage.seal

    def cleaned_before(storage: Storage, folder: str, entries: Mapping[str, FileEntry]) -> Manifest:
        api.clean(str(run))
        return seal(storage, folder, entries)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="found no file"):
        patch.setattr(Storage, "seal", cleaned_before)
        api.merge(str(run))
    with pytest.raises(StorageError, match="found a run without one"):
        Ensemble.load(str(run))
    api.merge(str(run))
    assert Ensemble.load(str(run), verify="full").worlds == 3


def test_a_damaged_ensemble_is_written_again(run: Path) -> None:
    uri = api.merge(str(run))
    weights = Path(uri, "world-001.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(StorageError, match=r"world-001\.safetensors: expected \d+ bytes"):
        Ensemble.load(uri)
    assert api.merge(str(run)) == uri
    assert weights.read_bytes() == whole


def test_equal_weights_have_one_digest_whoever_made_them(source: Path, tmp_path: Path) -> None:
    # Another run: other attempts, another number of threads.
    first = api.status(str(source)).config
    overrides = [f"run={tmp_path / 'other'}", "runtime.threads=2", "runtime.report_steps=3"]
    summary = api.train(first, overrides=overrides)
    other = Path(summary.run)
    assert final(other, 0).parent.name != final(source, 0).parent.name
    assert current(other) == current(source)
    folders = [run / "ensembles" / current(run) for run in (source, other)]
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert one == two


def test_the_digest_follows_weights_and_combiner(source: Path, run: Path) -> None:
    digests = [digest(api.merge(str(run)))]
    assert digests == [current(source)]
    api.resume(str(run), overrides=["merge.combiner=min"])
    digests.append(current(run))
    rewritten(run, 1, 1.0)
    digests.append(digest(api.merge(str(run))))
    assert len(set(digests)) == 3
    assert Ensemble.load(str(run)).manifest.combiner == "min"


def test_weights_are_merged_under_the_settings_that_they_were_trained_with(run: Path) -> None:
    identity = run / "identity.yaml"
    text = identity.read_text().replace("seed: 0", "seed: 1")
    identity.write_text(re.sub("sha256: .*\n", "", text))
    with pytest.raises(StorageError, match=r"expected the receipt of world 0 and of the settings"):
        api.merge(str(run))


def test_the_weights_of_another_world_are_not_merged(run: Path) -> None:
    one, other = final(run, 1), final(run, 2)
    shutil.rmtree(one)
    shutil.copytree(other, one)
    with pytest.raises(StorageError, match=r"expected the receipt of world 1 .* found world 2"):
        api.merge(str(run))


def test_names_travel_with_the_ensemble(tmp_path: Path) -> None:
    names = write(tmp_path / "names.parquet", named_classes())
    run = trained(run_config(tmp_path, f"data.class_names={names}", "worlds=1"))
    Path(names).unlink()
    found = Ensemble.load(str(run)).names
    assert found is not None
    assert found.ids(["thing 7", "thing 0"]).tolist() == [7, 0]


def test_names_that_are_not_those_of_the_classes_are_not_merged(tmp_path: Path) -> None:
    names = write(tmp_path / "names.parquet", named_classes())
    wrong = pa.table({"id": [0] * 64, "name": ["thing"] * 64})
    config = run_config(tmp_path, f"data.class_names={names}", "worlds=1", "merge.min_worlds=1")
    run = trained(config)
    old = current(run)
    write(tmp_path / "names.parquet", wrong)
    rewritten(run, 0, 1.0)
    with pytest.raises(DataError, match="expected each id from 0 to 63 once, found 64 ids"):
        api.merge(str(run))
    assert current(run) == old
