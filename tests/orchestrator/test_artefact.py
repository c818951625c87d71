"""Opening an ensemble: what is whole opens, and anything else is refused in words."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from orchestrator import Ensemble
from orchestrator.ensemble.artefact import Manifest, open_artefact
from tests.orchestrator.builders import (
    copied,
    flip,
    named_classes,
    recommit,
    run_config,
    trained,
    write,
)
from workers.errors import SchemaError, StorageError
from workers.storage import from_json, to_json

Values = dict[str, Any]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of three worlds whose classes have names, merged."""
    folder = tmp_path_factory.mktemp("source")
    names = write(folder / "names.parquet", named_classes())
    return trained(run_config(folder, f"data.class_names={names}"))


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Path:
    return copied(source, tmp_path / "run", merged=True)


@pytest.fixture
def ensemble(run: Path) -> Path:
    """Return the folder of its ensemble."""
    return merged(run)


def merged(run: Path) -> Path:
    return run / "ensembles" / (run / "ensembles" / "CURRENT").read_text()


def manifest_of(ensemble: Path) -> Values:
    values: Values = json.loads((ensemble / "manifest.json").read_text())
    assert values.pop("schema") == 1
    assert values.pop("sha256")
    return values


def put(values: Values, path: str, value: Any) -> Values:
    """Return `values` with another value at a dotted path."""
    changed = copy.deepcopy(values)
    *groups, last = path.split(".")
    node: Any = changed
    for group in groups:
        node = node[int(group) if isinstance(node, list) else group]
    node[int(last) if isinstance(node, list) else last] = value
    return changed


def dropped(values: Values, path: str) -> Values:
    """Return `values` without what is at a dotted path."""
    changed = copy.deepcopy(values)
    *groups, last = path.split(".")
    node: Any = changed
    for group in groups:
        node = node[int(group) if isinstance(node, list) else group]
    del node[last]
    return changed


def replace_weights(ensemble: Path, world: int, data: bytes) -> None:
    """Replace a world's weights by someone else's, all hashes right."""
    name = f"world-{world:03d}.safetensors"
    sha256 = hashlib.sha256(data).hexdigest()
    values = put(manifest_of(ensemble), f"members.{world}.model_sha256", sha256)
    recommit(ensemble, {name: data, "manifest.json": to_json(values)})


@pytest.mark.parametrize(
    "uri",
    [
        lambda run, ensemble: str(run),
        lambda run, ensemble: f"{run}/",
        lambda run, ensemble: f"file://{run}",
        lambda run, ensemble: str(ensemble),
        lambda run, ensemble: f"{ensemble}/",
        lambda run, ensemble: f"file://{ensemble}",
    ],
    ids=["run", "run/", "file run", "ensemble", "ensemble/", "file ensemble"],
)
@pytest.mark.parametrize("verify", ["size", "full"])
def test_an_ensemble_opens_by_its_run_and_by_itself(
    run: Path, ensemble: Path, uri: Callable[[Path, Path], str], verify: str
) -> None:
    opened = open_artefact(uri(run, ensemble), verify=verify)
    assert opened.uri == str(ensemble)
    assert opened.manifest.digest == ensemble.name
    assert opened.manifest.to_dict() == manifest_of(ensemble)


@pytest.mark.parametrize("uri", [".", "../e"])
def test_an_ensemble_opens_from_within(
    ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    alone = tmp_path / "e"
    shutil.copytree(ensemble, alone)
    monkeypatch.chdir(alone)
    assert Ensemble.load(uri).worlds == 3


def test_an_ensemble_needs_nothing_but_its_folder(run: Path, ensemble: Path) -> None:
    before = Ensemble.load(str(run)).predict(["thing1"], k=3)
    alone = run.parent / "alone"
    shutil.move(ensemble, alone)
    shutil.rmtree(run)
    after = Ensemble.load(str(alone)).predict(["thing1"], k=3)
    assert after.ids.tolist() == before.ids.tolist()
    assert after.names == before.names


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_where_there_is_no_ensemble_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="expected a run or an ensemble, found neither"):
        open_artefact(str(tmp_path / name))


def test_a_run_that_was_not_merged_says_how_to_merge_it(source: Path, tmp_path: Path) -> None:
    run = copied(source, tmp_path / "run")
    with pytest.raises(StorageError, match=f"merge it first with 'manyworlds merge {run}'"):
        open_artefact(str(run))


@pytest.mark.parametrize(
    "current",
    [
        b"../../x",
        b"../worlds",
        b"/etc",
        b"",
        b"\xff\xfe",
        b"x" * 16,
        b"0123456789abcdef/..",
        b"0123456789abcde\x00",
    ],
)
def test_current_names_an_ensemble_and_nothing_else(run: Path, current: bytes) -> None:
    (run / "ensembles" / "CURRENT").write_bytes(current)
    with pytest.raises(StorageError, match="CURRENT: expected the name of an ensemble, 16 hexa"):
        open_artefact(str(run))


def test_current_may_name_an_ensemble_that_is_gone(run: Path) -> None:
    (run / "ensembles" / "CURRENT").write_text("0" * 16)
    with pytest.raises(StorageError, match="COMMIT: expected a file, found none"):
        open_artefact(str(run))


FILES = ["COMMIT", "manifest.json", "world-001.safetensors", "classes.parquet", "README.md"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run: Path, ensemble: Path, name: str) -> None:
    (ensemble / name).unlink()
    with pytest.raises(StorageError, match=rf"{name}: expected .* found (none|no file)"):
        open_artefact(str(run))


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(run: Path, ensemble: Path, name: str) -> None:
    data = (ensemble / name).read_bytes()
    (ensemble / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(StorageError) as e:
        open_artefact(str(run))
    assert str(e.value).startswith(str(ensemble / name))


@pytest.mark.parametrize("name", FILES[1:])
def test_an_altered_file_is_found_by_reading_all(run: Path, ensemble: Path, name: str) -> None:
    flip(ensemble / name)
    with pytest.raises(StorageError, match=r"expected \d+ bytes with sha256") as e:
        open_artefact(str(run), verify="full")
    assert str(e.value).startswith(str(ensemble / name))


def test_altered_names_are_found_when_they_are_first_used(run: Path, ensemble: Path) -> None:
    flip(ensemble / "classes.parquet")
    opened = Ensemble.load(str(run))
    with pytest.raises(StorageError, match=r"classes\.parquet: expected \d+ bytes with sha256"):
        opened.predict(["thing1"])


@pytest.mark.parametrize("data", [b"no Parquet", b""])
def test_names_of_another_kind_are_refused(run: Path, ensemble: Path, data: bytes) -> None:
    recommit(ensemble, {"classes.parquet": data})
    with pytest.raises(StorageError, match=r"classes\.parquet: expected the names of classes"):
        Ensemble.load(str(run)).predict(["thing1"])


def test_names_of_other_classes_are_refused(run: Path, ensemble: Path) -> None:
    other = write(run / "other.parquet", named_classes().slice(1))
    recommit(ensemble, {"classes.parquet": Path(other).read_bytes()})
    with pytest.raises(StorageError, match="each id from 0 to 63 once, found 63 ids"):
        Ensemble.load(str(run)).predict(["thing1"])


@pytest.mark.parametrize("name", ["manifest.json", "COMMIT"])
@pytest.mark.parametrize("number", [0, 2, "1", None, True])
def test_another_schema_is_refused(run: Path, ensemble: Path, name: str, number: Any) -> None:
    values = {**json.loads((ensemble / name).read_text()), "schema": number}
    data = json.dumps(values).encode()
    if name == "COMMIT":
        (ensemble / name).write_bytes(data)
    else:
        recommit(ensemble, {name: data})
    with pytest.raises(SchemaError, match=f"expected schema 1, found {number}; another version"):
        open_artefact(str(run))


@pytest.mark.parametrize("name", ["../manifest.json", "/etc/passwd", "a/../../b", ""])
def test_a_commit_cannot_name_files_elsewhere(run: Path, ensemble: Path, name: str) -> None:
    commit = ensemble / "COMMIT"
    values = from_json(commit.read_bytes(), "commit")
    values["files"][name] = values["files"]["README.md"]
    commit.write_bytes(to_json(values))
    with pytest.raises(StorageError, match="expected the name of a file inside the folder"):
        open_artefact(str(run), verify="full")


@pytest.mark.parametrize("data", [b"", b"[]", b"[" * 100_000, b'{"schema": 1}', b"\xff", b"NaN"])
def test_a_manifest_that_is_none_is_refused(run: Path, ensemble: Path, data: bytes) -> None:
    recommit(ensemble, {"manifest.json": data})
    with pytest.raises(StorageError, match=r"manifest\.json: expected"):
        open_artefact(str(run))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("members", []),
        ("members", None),
        ("members", [[]]),
        ("members.0.world", "../../x"),
        ("members.0.world", -1),
        ("members.0.world", 1),
        ("members.0.world", True),
        ("members.0.world", 0.0),
        ("members.0.steps", None),
        ("members.0.steps", -1),
        ("members.0.steps", 2**63),
        ("members.0.bucket_accuracy", 1.5),
        ("members.0.bucket_accuracy", "good"),
        ("members.0.model_sha256", 7),
        ("members.0.file", "../../x"),
        ("worlds_of_run", "3"),
        ("has_names", "yes"),
        ("dense_width", 2),
        ("combiner", "../mean"),
        ("combiner", ["mean"]),
        ("config", []),
        ("config.data", None),
        ("config.data.classes", 64.5),
        ("config.data.classes", 8),
        ("config.data.text", {"query": 1}),
        ("config.data.surprise", 1),
        ("config.seed", "zero"),
        ("config.partition.kind", "other"),
        ("config.partition.buckets", [16]),
        ("config.model.hidden", "wide"),
        ("config.model.loss", "hinge"),
        ("config.model.activation", "tanh"),
        ("config.training.precision", "fp64"),
    ],
)
def test_a_manifest_with_other_values_is_refused(
    run: Path, ensemble: Path, path: str, value: Any
) -> None:
    changed = put(manifest_of(ensemble), path, value)
    recommit(ensemble, {"manifest.json": to_json(changed)})
    with pytest.raises(StorageError, match=r"manifest\.json: expected the manifest of an ensem"):
        open_artefact(str(run))


@pytest.mark.parametrize(
    "path",
    ["members", "members.0.world", "combiner", "config", "config.seed", "config.partition"],
)
def test_a_manifest_in_which_something_is_missing_is_refused(
    run: Path, ensemble: Path, path: str
) -> None:
    changed = dropped(manifest_of(ensemble), path)
    recommit(ensemble, {"manifest.json": to_json(changed)})
    with pytest.raises(StorageError, match=r"manifest\.json: expected the manifest of an ensem"):
        open_artefact(str(run))


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("members.2.world", 7, "world-007.safetensors"),
        ("members.2.model_sha256", "0" * 64, "world-002.safetensors"),
    ],
)
def test_weights_must_be_those_that_the_manifest_names(
    run: Path, ensemble: Path, path: str, value: Any, name: str
) -> None:
    # A file that lies there, but that nobody committed, does not count.
    shutil.copy(ensemble / "world-002.safetensors", ensemble / "world-007.safetensors")
    changed = put(manifest_of(ensemble), path, value)
    recommit(ensemble, {"manifest.json": to_json(changed)})
    with pytest.raises(StorageError, match=rf"expected the {name} that it names to be committed"):
        open_artefact(str(run))


@pytest.fixture
def renamed(ensemble: Path) -> Path:
    """Return the folder of the ensemble under another name: no digest vouches for it."""
    return ensemble.rename(ensemble.parent / "renamed")


def test_the_name_of_the_folder_vouches_for_all_in_it(run: Path, ensemble: Path) -> None:
    tensors = load_file(ensemble / "world-001.safetensors")
    replace_weights(ensemble, 1, save({name: t + 1 for name, t in tensors.items()}))
    for uri in (run, ensemble):
        with pytest.raises(StorageError, match=r"manifest\.json: expected the manifest whose"):
            open_artefact(str(uri))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(renamed: Path, number: float) -> None:
    tensors = load_file(renamed / "world-001.safetensors")
    tensors["input.bias"][2] = number
    replace_weights(renamed, 1, save(tensors))
    with pytest.raises(StorageError, match=r"world-001\..*: expected finite .* in input\.bias"):
        Ensemble.load(str(renamed), verify="full")


def test_weights_of_other_shapes_are_refused(renamed: Path) -> None:
    tensors = load_file(renamed / "world-001.safetensors")
    wider = {**tensors, "input.bias": torch.zeros(9)}
    replace_weights(renamed, 1, save(wider))
    with pytest.raises(StorageError, match=r"input\.bias \[9\].* belong to another network"):
        Ensemble.load(str(renamed))


@pytest.mark.parametrize("kind", [torch.float64, torch.int32])
def test_weights_of_other_types_are_refused(renamed: Path, kind: torch.dtype) -> None:
    tensors = load_file(renamed / "world-001.safetensors")
    replace_weights(renamed, 1, save({name: t.to(kind) for name, t in tensors.items()}))
    found = str(kind).partition(".")[2]
    with pytest.raises(StorageError, match=f"expected weights in fp32, found {found}"):
        Ensemble.load(str(renamed))


@pytest.mark.parametrize("data", [b"", b"no tensors", b"\xff" * 64])
def test_weights_that_are_none_are_refused(renamed: Path, data: bytes) -> None:
    replace_weights(renamed, 1, data)
    with pytest.raises(StorageError, match=r"world-001\.safetensors: expected a safetensors file"):
        Ensemble.load(str(renamed))


def leaves(values: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every value, of groups too."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        yield f"{prefix}{key}"
        if isinstance(value, (dict, list)):
            yield from leaves(value, f"{prefix}{key}.")


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
hostile = plain | st.lists(plain, max_size=3) | st.dictionaries(st.text(max_size=9), plain)


@given(data=st.data())
@settings(max_examples=60)
def test_a_manifest_is_read_or_refused_whatever_is_in_it(source: Path, data: st.DataObject) -> None:
    values = manifest_of(merged(source))
    path = data.draw(st.sampled_from(sorted(leaves(values))), "path")
    changed = put(values, path, data.draw(hostile, "value"))
    try:
        read = Manifest.from_dict(changed, "here")
    except StorageError as error:
        assert "here: expected the manifest of an ensemble" in str(error)
    else:
        assert Manifest.from_dict(read.to_dict(), "here") == read
