"""A run on storage: one identity for ever, settings that change, states that are checked."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import RunConfig, override
from orchestrator.run import Run
from orchestrator.state import Attempt, WorldState
from tests.orchestrator.fakes import make_run
from workers.config import RuntimeConfig
from workers.errors import RunError, SchemaError, StorageError, StorageFull
from workers.storage import Source, Storage, to_json

IDENTITY = {"data": {"train": "rows", "text": ["query"]}, "model": {"hidden": [256]}, "seed": 1}
SETTINGS = {"worlds": 4, "runtime": {"threads": 0}}
SHARDS = {
    "rows": 30,
    "shards": [{"name": name, "bytes": 10, "rows": 10} for name in ("a", "b", "c")],
}
DONE = WorldState(
    index=2,
    status="done",
    attempts=(
        Attempt(name="01-ab", started_at="2026-01-01T00:00:00+00:00", cause="preemption", steps=5),
        Attempt(name="02-cd", started_at="2026-01-01T00:01:00+00:00", cause="done", node="host"),
    ),
    winner="02-cd",
    forgiven=1,
)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@pytest.fixture
def run(uri: str) -> Run:
    return Run.create(uri, IDENTITY, SETTINGS)


def test_a_run_is_opened_as_it_was_made(run: Run) -> None:
    opened = Run.open(run.uri)
    assert (opened.identity, opened.settings) == (IDENTITY, SETTINGS)
    assert opened.digest == run.digest
    assert opened.worlds == 4


def test_a_whole_config_survives(uri: str) -> None:
    config = RunConfig()
    Run.create(uri, config.identity(), config.settings())
    opened = Run.open(uri)
    assert RunConfig.from_parts("", opened.identity, opened.settings) == config


def test_creating_a_run_again_changes_nothing(run: Run) -> None:
    before = {path: path.read_bytes() for path in Path(run.uri).rglob("*.yaml")}
    again = Run.create(run.uri, IDENTITY, SETTINGS)
    assert again.digest == run.digest
    assert {path: path.read_bytes() for path in Path(run.uri).rglob("*.yaml")} == before


def test_another_identity_is_refused_with_every_key_that_differs(run: Run) -> None:
    other = {"data": {"train": "others", "text": ["query"]}, "model": {"hidden": [512]}, "loss": 1}
    with pytest.raises(RunError) as refused:
        Run.create(run.uri, other, {"worlds": 9})
    message = str(refused.value)
    assert "data.train: the run has 'rows', found 'others'" in message
    assert "model.hidden: the run has [256], found [512]" in message
    assert "seed: the run has 1, found 'nothing'" in message
    assert "loss: the run has 'nothing', found 1" in message
    assert "data.text" not in message
    assert "another run=" in message
    assert Run.open(run.uri).settings == SETTINGS


def test_settings_may_change_and_the_newest_win(run: Run) -> None:
    Run.create(run.uri, IDENTITY, {**SETTINGS, "worlds": 6})
    Run.open(run.uri).change_settings({**SETTINGS, "worlds": 8})
    assert Run.open(run.uri).worlds == 8
    assert run.storage.numbered("settings") == ["0001.yaml", "0002.yaml", "0003.yaml"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": (1, 2)}, {"a": [1, 2]}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": {"b": 1}}, {"a.b": 1}, False),
    ],
)
def test_the_digest_is_of_the_values(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    runs = [
        Run.create(str(tmp_path / str(number)), identity, SETTINGS)
        for number, identity in enumerate([one, other])
    ]
    assert (runs[0].digest == runs[1].digest) == same


def test_opening_no_run_is_refused(uri: str) -> None:
    with pytest.raises(RunError, match=r"expected a run, found no identity\.yaml there"):
        Run.open(uri)


@pytest.mark.parametrize("path", ["identity.yaml", "settings/0001.yaml"])
def test_a_file_of_another_version_is_refused(run: Run, path: str) -> None:
    text = run.storage.read_bytes(path).replace(b"schema: 1", b"schema: 99")
    run.storage.write_bytes(path, text)
    with pytest.raises(SchemaError, match=rf"{path}: expected schema 1, found 99"):
        Run.open(run.uri)


@pytest.mark.parametrize("path", ["identity.yaml", "settings/0001.yaml"])
@pytest.mark.parametrize(
    "text", [b"", b"- 1", b"a: [", b"\xff\xfe\xfa", b"!!python/object/apply:os.getcwd []"]
)
def test_an_altered_file_is_refused(run: Run, path: str, text: bytes) -> None:
    run.storage.write_bytes(path, text)
    with pytest.raises(StorageError, match=rf"{path}: expected a file of a run, found"):
        Run.open(run.uri)


@pytest.mark.parametrize("path", ["identity.yaml", "settings/0001.yaml"])
def test_a_file_in_which_a_value_was_altered_is_refused(run: Run, path: str) -> None:
    text = run.storage.read_bytes(path)
    altered = text.replace(b"seed: 1", b"seed: 3").replace(b"worlds: 4", b"worlds: 5")
    assert altered != text
    run.storage.write_bytes(path, altered)
    with pytest.raises(StorageError, match=rf"{path}: expected content with sha256"):
        Run.open(run.uri)


def test_a_file_with_aliases_is_refused(run: Run) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    text = "\n".join(["schema: 1", "a0: &a0 [x, x, x]", *levels])
    run.storage.write_bytes("identity.yaml", text.encode())
    with pytest.raises(StorageError, match=r"identity\.yaml: expected .* found no YAML"):
        Run.open(run.uri)


def test_a_file_that_is_too_large_is_refused(run: Run) -> None:
    run.storage.write_bytes("settings/0002.yaml", b"#" * ((1 << 20) + 1))
    with pytest.raises(StorageError, match=r"0002\.yaml: expected at most 1,048,576 bytes"):
        Run.open(run.uri)


@pytest.mark.parametrize("worlds", [None, "4", 0, -1, 1001, 2.0, True])
def test_a_run_has_a_number_of_worlds(uri: str, worlds: Any) -> None:
    run = Run.create(uri, IDENTITY, {"worlds": worlds})
    with pytest.raises(StorageError, match="expected a file of a run, found worlds = "):
        run.states()


def test_the_digest_is_that_of_its_worlds(uri: str) -> None:
    config = RunConfig(seed=7)
    run = Run.create(uri, config.identity(), config.settings())
    assert run.digest == config.world_config().digest()
    runtime = replace(config.world_config(), runtime=RuntimeConfig(threads=3))
    assert runtime.digest() == run.digest
    lenient = override(config, ["run=x", "data.train=x", "data.classes=5000", "data.text=[query]"])
    strict = lenient.world_config().digest()
    skipping = override(lenient, ["data.on_bad_shard=skip", "data.bad_rows_budget=0.2"])
    assert skipping.world_config().digest() == strict != run.digest


def test_the_same_training_data_are_accepted(run: Run) -> None:
    run.check_dataset(SHARDS)
    Run.open(run.uri).check_dataset(SHARDS)


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ([{"name": "a", "bytes": 10, "rows": 10}, {"name": "b", "bytes": 11}], "shard b"),
        ([{"name": "a", "bytes": 10, "rows": 10}], "b is missing"),
        ([*SHARDS["shards"], {"name": "d"}], "d is new"),  # type: ignore[misc]
    ],
)
def test_other_training_data_are_refused(run: Run, shards: list[Any], words: str) -> None:
    run.check_dataset(SHARDS)
    with pytest.raises(RunError, match=words):
        run.check_dataset({"rows": 30, "shards": shards})


def hand_in(run: Run, world: int, content: Any) -> None:
    """Commit the weights of a world that read `content`."""
    files: dict[str, Source] = {"content.json": to_json({"content": content})}
    run.storage.commit(run.paths.final(world, "01-a"), {"model.safetensors": b"w", **files})


def test_what_worlds_read_is_kept_beside_the_fingerprint(run: Run) -> None:
    run.check_dataset(SHARDS)
    one, two, other = "0" * 32, "1" * 32, "2" * 32
    content = {"a": {"0": [one]}, "b": {"3": [two]}}
    hand_in(run, 0, {"a": {"0": [one]}})
    hand_in(run, 1, content)
    hand_in(run, 2, {"b": {"3": [other]}})
    assert run.accept(0) == ("01-a", "")
    assert Run.open(run.uri).accept(1) == ("01-a", "")
    assert run.dataset() == {"fingerprint": SHARDS, "content": content}
    assert run.acceptable(2) is None
    assert run.finished(2)
    winner, why = run.accept(2)
    assert winner is None
    assert "b, row group 3, rows from 0: expected the content of the" in why
    assert run.finished(2) is None
    assert run.dataset()["content"] == content
    run.check_dataset(SHARDS)


@pytest.mark.parametrize("altered", [[1], {"a": 3}, None])
def test_weights_whose_content_is_no_table_do_not_count(run: Run, altered: Any) -> None:
    hand_in(run, 0, altered)
    winner, why = run.accept(0)
    assert winner is None
    assert "the file with them was altered" in why


@pytest.mark.parametrize("full", [False, True])
def test_trouble_with_what_is_kept_costs_no_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    run.check_dataset(SHARDS)
    hand_in(run, 0, {"a": {"0": ["0" * 32]}})

    def refuse(storage: Storage, path: str, *more: Any, **words: Any) -> None:
        raise StorageFull("no room")

    with monkeypatch.context() as patch:
        if full:
            patch.setattr(Storage, "write_json", refuse)
        else:
            run.storage.write_bytes(run.paths.dataset, b"{}")
        with pytest.raises(StorageError):
            run.accept(0)
    assert run.finished(0)


def test_a_run_only_grows(run: Run) -> None:
    with pytest.raises(RunError, match="expected at least the 4 worlds that the run has, found 3"):
        Run.create(run.uri, IDENTITY, {**SETTINGS, "worlds": 3})
    assert Run.open(run.uri).worlds == 4


def test_a_difference_of_shards_is_told_in_short(run: Run) -> None:
    shard = {"name": "a", "bytes": 10, "row_groups": [5] * 1000, "footer": "aa"}
    run.check_dataset({"rows": 5000, "shards": [shard]})
    with pytest.raises(RunError, match="shard a: bytes 11, footer bb instead of bytes 10, footer"):
        run.check_dataset({"rows": 5000, "shards": [{**shard, "bytes": 11, "footer": "bb"}]})


def test_a_world_without_a_state_is_pending(run: Run) -> None:
    assert run.states() == [WorldState(index=index) for index in range(4)]


def test_a_state_comes_back(run: Run) -> None:
    run.save(DONE)
    assert Run.open(run.uri).states()[2] == DONE


attempts = st.builds(
    Attempt,
    name=st.from_regex(r"[0-9]{2}-[a-z0-9]{4}", fullmatch=True),
    started_at=st.text(),
    ended_at=st.none() | st.text(),
    cause=st.sampled_from([None, "done", "hung", "out_of_memory"]),
    message=st.text(),
    node=st.none() | st.text(),
    steps=st.integers(0),
)


@given(st.lists(attempts), st.integers(0))
def test_every_state_comes_back(tried: list[Attempt], forgiven: int) -> None:
    state = WorldState(index=3, status="failed", attempts=tuple(tried), forgiven=forgiven)
    assert WorldState.from_dict(json.loads(json.dumps(state.to_dict())), "here") == state


@pytest.mark.parametrize(
    "change",
    [
        {"status": "finished"},
        {"winner": None},
        {"winner": 3},
        {"winner": "../../other"},
        {"status": "pending"},
        {"index": "2"},
        {"forgiven": True},
        {"attempts": None},
        {"attempts": [1]},
        {"attempts": [{"name": "01-ab"}]},
        {"attempts": [{**DONE.to_dict()["attempts"][0], "name": "first"}]},
        {"attempts": [{**DONE.to_dict()["attempts"][0], "cause": "unknown"}]},
        {"attempts": [{**DONE.to_dict()["attempts"][0], "steps": 1.5}]},
    ],
)
def test_an_altered_state_is_refused(run: Run, change: dict[str, Any]) -> None:
    run.storage.write_json(run.paths.state(2), {**DONE.to_dict(), **change})
    with pytest.raises(StorageError, match=r"state\.json: expected the state of a world, found"):
        run.state(2)


def test_the_state_of_another_world_is_refused(run: Run) -> None:
    run.storage.write_json(run.paths.state(1), DONE.to_dict())
    with pytest.raises(StorageError, match="found that of world 2"):
        run.state(1)


def test_progress_is_read_where_there_is_some(run: Run) -> None:
    assert run.progress(2, "01-ab") == {}
    run.storage.write_json(run.paths.progress(2, "01-ab"), {"step": 7})
    assert run.progress(2, "01-ab") == {"step": 7}


def test_worlds_are_read_side_by_side_from_a_server() -> None:
    run = make_run(worlds=40)
    for world in range(40):
        run.save(WorldState(index=world))
    assert [state.index for state in run.states()] == list(range(40))
    # Nobody gets past it alone.
    barrier = threading.Barrier(4, timeout=60)
    assert sorted(run.each(lambda world: barrier.wait())) == sorted([0, 1, 2, 3] * 10)


def test_worlds_are_read_in_order_from_a_disk(tmp_path: Path) -> None:
    read: list[int] = []
    run = Run.create(str(tmp_path), {"seed": 5}, {"worlds": 3})
    run.each(read.append)
    assert read == [0, 1, 2]
