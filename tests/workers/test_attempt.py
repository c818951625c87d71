from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from tests.workers.builders import bits, stopped_at, unhurried, world_config, write_queries
from workers.attempt import Stopped, run_attempt
from workers.config import WorldConfig
from workers.errors import DataError, SchemaError, StorageError
from workers.storage import RunPaths, Storage, to_json
from workers.world import World

STEPS = 66
FIRST, SECOND, THIRD = "01-aaaa", "02-bbbb", "03-cccc"
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> WorldConfig:
    return world_config(write_queries(tmp_path_factory.mktemp("queries")))


@pytest.fixture(scope="module")
def undisturbed(config: WorldConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the sha256 of the weights of world 0, trained in one go."""
    receipt = run_attempt(str(tmp_path_factory.mktemp("run")), config, 0, FIRST)
    return str(receipt["model_sha256"])


def killed_at(step: int) -> Callable[[dict[str, Any]], None]:
    def report(progress: dict[str, Any]) -> None:
        if progress["step"] >= step:
            raise Killed

    return report


def checkpoints(run: Path, attempt: str) -> list[str]:
    folder = run / "worlds/000/attempts" / attempt / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def checkpoint(run: Path, attempt: str, step: int) -> Path:
    return run / "worlds/000/attempts" / attempt / "checkpoints" / f"{step:08d}"


def two_checkpoints(run: Path, config: WorldConfig) -> None:
    """Leave one at step 12 by the first attempt, and one at step 20 by the second."""
    with pytest.raises(Stopped):
        run_attempt(str(run), config, 0, FIRST, stop=stopped_at(12))
    with pytest.raises(Killed):
        run_attempt(str(run), config, 0, SECOND, stop=unhurried(), report=killed_at(25))
    assert checkpoints(run, FIRST) == ["00000012"]
    assert checkpoints(run, SECOND) == ["00000020"]


def log(run: Path, attempt: str, level: str = "") -> list[str]:
    """Return the lines of an attempt's log that begin with a time, and this level."""
    text = (run / "worlds/000/attempts" / attempt / "log.txt").read_text()
    return re.findall(rf"^2\S+Z {level or r'[A-Z]+'} +(.*)$", text, re.MULTILINE)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_an_attempt_hands_in_weights_and_receipt(tmp_path: Path, config: WorldConfig) -> None:
    receipt = run_attempt(str(tmp_path), config, 0, FIRST)
    storage = Storage(str(tmp_path))
    folder = "worlds/000/attempts/01-aaaa/final"
    manifest = storage.verify(folder)
    assert set(manifest.files) == {"model.safetensors", "content.json", "receipt.json"}
    assert storage.read_json(f"{folder}/receipt.json") == receipt
    assert manifest.files["model.safetensors"].sha256 == receipt["model_sha256"]
    assert RunPaths(storage).finished(0) == (FIRST, manifest)
    assert set(receipt) == {
        "world",
        "attempt",
        "identity",
        "steps",
        "seconds",
        "resumed_from",
        "device",
        "bf16",
        "computed_on",
        "loss",
        "bucket_accuracy",
        "left_out",
        "content_sha256",
        "model_sha256",
    }
    assert (receipt["world"], receipt["attempt"], receipt["steps"]) == (0, FIRST, STEPS)
    assert receipt["resumed_from"] is None


def test_the_weights_are_those_of_the_world_alone(tmp_path: Path, config: WorldConfig) -> None:
    run_attempt(str(tmp_path), config, 3, FIRST)
    with_run = load_file(tmp_path / "worlds/003/attempts/01-aaaa/final/model.safetensors")
    world = World(config, 3)
    world.train()
    world.close()
    assert bits(with_run) == bits(world.parameters)


def test_an_attempt_leaves_progress_and_metrics(tmp_path: Path, config: WorldConfig) -> None:
    seen: list[dict[str, Any]] = []
    run_attempt(str(tmp_path), config, 0, FIRST, report=seen.append)
    folder = tmp_path / "worlds/000/attempts/01-aaaa"
    lines = [
        json.loads(line)
        for path in sorted((folder / "metrics").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert lines == seen
    assert [line["step"] for line in lines] == sorted({*range(5, STEPS, 5), 33, STEPS})
    assert Storage(str(folder)).read_json("progress.json") == seen[-1]


@pytest.mark.parametrize(("step", "committed"), [(10, 0), (15, 10), (25, 20), (STEPS, 60)])
def test_a_killed_attempt_loses_at_most_one_interval(
    tmp_path: Path, config: WorldConfig, undisturbed: str, step: int, committed: int
) -> None:
    with pytest.raises(Killed):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried(), report=killed_at(step))
    # The report comes before the checkpoint of the same step.
    wanted = checkpoint(tmp_path, FIRST, committed) if committed else None
    assert checkpoints(tmp_path, FIRST) == ([wanted.name] if wanted else [])
    receipt = run_attempt(str(tmp_path), config, 0, SECOND)
    assert receipt["resumed_from"] == (str(wanted.relative_to(tmp_path)) if wanted else None)
    assert receipt["model_sha256"] == undisturbed
    assert receipt["steps"] == STEPS


@pytest.mark.parametrize("step", [0, 10, 17])
def test_a_stopped_attempt_loses_nothing(
    tmp_path: Path, config: WorldConfig, undisturbed: str, step: int
) -> None:
    with pytest.raises(Stopped, match=f"world 0 stopped at step {step}"):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=stopped_at(step))
    assert checkpoints(tmp_path, FIRST) == [f"{step:08d}"]
    receipt = run_attempt(str(tmp_path), config, 0, SECOND)
    assert receipt["resumed_from"].endswith(f"{FIRST}/checkpoints/{step:08d}")
    assert receipt["model_sha256"] == undisturbed


def test_the_furthest_checkpoint_counts_and_earlier_attempts_stay(
    tmp_path: Path, config: WorldConfig, undisturbed: str
) -> None:
    two_checkpoints(tmp_path, config)
    receipt = run_attempt(str(tmp_path), config, 0, THIRD, stop=unhurried())
    assert receipt["resumed_from"].endswith(f"{SECOND}/checkpoints/00000020")
    assert receipt["model_sha256"] == undisturbed
    assert checkpoints(tmp_path, FIRST) == ["00000012"]
    assert checkpoints(tmp_path, THIRD) == ["00000060"]


@pytest.mark.parametrize("name", ["COMMIT", "model.safetensors", "state.json"])
def test_a_checkpoint_that_is_not_whole_does_not_count(
    tmp_path: Path, config: WorldConfig, undisturbed: str, name: str
) -> None:
    two_checkpoints(tmp_path, config)
    (checkpoint(tmp_path, SECOND, 20) / name).unlink()
    receipt = run_attempt(str(tmp_path), config, 0, THIRD)
    assert receipt["resumed_from"].endswith(f"{FIRST}/checkpoints/00000012")
    assert receipt["model_sha256"] == undisturbed


@pytest.mark.parametrize("name", FILES)
def test_an_altered_checkpoint_is_passed_over_for_the_next_older_one(
    tmp_path: Path, config: WorldConfig, undisturbed: str, name: str
) -> None:
    two_checkpoints(tmp_path, config)
    broken = checkpoint(tmp_path, SECOND, 20)
    flip(broken / name)
    receipt = run_attempt(str(tmp_path), config, 0, THIRD)
    assert receipt["resumed_from"].endswith(f"{FIRST}/checkpoints/00000012")
    assert receipt["model_sha256"] == undisturbed
    (line,) = log(tmp_path, THIRD, "WARNING")
    assert f"passed over the checkpoint of step 20: {broken / name}: expected" in line


def test_without_any_readable_checkpoint_a_world_begins_anew(
    tmp_path: Path, config: WorldConfig, undisturbed: str
) -> None:
    two_checkpoints(tmp_path, config)
    for attempt, step in ((FIRST, 12), (SECOND, 20)):
        flip(checkpoint(tmp_path, attempt, step) / "optimizer.safetensors")
    receipt = run_attempt(str(tmp_path), config, 0, THIRD)
    assert receipt["resumed_from"] is None
    assert receipt["model_sha256"] == undisturbed
    assert len(log(tmp_path, THIRD, "WARNING")) == 2


def commit_instead(run: Path, name: str, data: bytes) -> None:
    """Put `data` in the place of a file of the newest checkpoint, its hash right."""
    folder = checkpoint(run, SECOND, 20)
    files = {file: (folder / file).read_bytes() for file in FILES}
    Storage(str(run)).commit(str(folder.relative_to(run)), {**files, name: data})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("state.json", b"{", "expected JSON"),
        ("state.json", to_json({"step": 19}), "expected step 20, found 19"),
        ("model.safetensors", b"no tensors", "expected a safetensors file"),
        ("optimizer.safetensors", save({"a": torch.zeros(1).double()}), "expected float32"),
    ],
)
def test_a_committed_checkpoint_that_is_none_is_passed_over(
    tmp_path: Path, config: WorldConfig, undisturbed: str, name: str, data: bytes, message: str
) -> None:
    two_checkpoints(tmp_path, config)
    commit_instead(tmp_path, name, data)
    receipt = run_attempt(str(tmp_path), config, 0, THIRD)
    assert receipt["resumed_from"].endswith(f"{FIRST}/checkpoints/00000012")
    assert receipt["model_sha256"] == undisturbed
    (line,) = log(tmp_path, THIRD, "WARNING")
    assert message in line


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, config: WorldConfig) -> None:
    two_checkpoints(tmp_path, config)
    commit_instead(tmp_path, "state.json", to_json({"step": 20}, schema=99))
    with pytest.raises(SchemaError, match="expected schema 1, found 99"):
        run_attempt(str(tmp_path), config, 0, THIRD)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, config: WorldConfig) -> None:
    two_checkpoints(tmp_path, config)
    with pytest.raises(StorageError, match="belong to another network"):
        run_attempt(str(tmp_path), world_config(config.data.train, buckets=9), 0, THIRD)


def test_the_receipt_says_when_a_world_went_on_elsewhere(
    tmp_path: Path, config: WorldConfig
) -> None:
    # Stands for a device without bf16 after one that has it.
    before = world_config(config.data.train, precision="bf16")
    with pytest.raises(Stopped):
        run_attempt(str(tmp_path), before, 0, FIRST, stop=stopped_at(3))
    with pytest.raises(Stopped):
        run_attempt(str(tmp_path), config, 0, SECOND, stop=stopped_at(3))
    receipt = run_attempt(str(tmp_path), config, 0, THIRD)
    (first, second) = receipt["computed_on"]
    assert re.fullmatch(r"cpu \S+ bf16", first)
    assert second == first.replace("bf16", "fp32")
    alone = run_attempt(str(tmp_path), config, 1, FIRST)
    assert alone["computed_on"] == [second]


def test_worlds_do_not_touch_each_other(
    tmp_path: Path, config: WorldConfig, undisturbed: str
) -> None:
    with pytest.raises(Stopped):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=stopped_at(5))
    other = run_attempt(str(tmp_path), config, 1, FIRST)
    assert other["resumed_from"] is None
    assert other["model_sha256"] != undisturbed
    assert checkpoints(tmp_path, FIRST) == ["00000005"]


def test_two_attempts_at_once_spoil_nothing(
    tmp_path: Path, config: WorldConfig, undisturbed: str
) -> None:
    receipts: list[dict[str, Any]] = []

    def run(attempt: str) -> None:
        receipts.append(run_attempt(str(tmp_path), config, 0, attempt))

    threads = [threading.Thread(target=run, args=(attempt,)) for attempt in (FIRST, SECOND)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {receipt["model_sha256"] for receipt in receipts} == {undisturbed}
    for attempt in (FIRST, SECOND):
        Storage(str(tmp_path)).verify(f"worlds/000/attempts/{attempt}/final")


def test_the_log_tells_what_happened(tmp_path: Path, config: WorldConfig) -> None:
    with pytest.raises(Stopped):
        run_attempt(str(tmp_path), config, 0, FIRST, stop=unhurried(stopped_at(12)))
    first = log(tmp_path, FIRST)
    assert re.fullmatch(r"world 0, attempt 01-aaaa began on \S+, process \d+", first[0])
    assert re.fullmatch(r"device: cpu \S+ fp32", first[1])
    assert first[2] == "nothing to resume from, 66 steps to go"
    assert re.fullmatch(r"checkpoint of step 10 in \d+\.\d s", first[3])
    assert re.fullmatch(r"checkpoint of step 12 in \d+\.\d s", first[4])
    assert first[5:] == ["world 0 stopped at step 12"]
    validated = world_config(config.data.train, validation=config.data.train)
    receipt = run_attempt(str(tmp_path), validated, 0, SECOND)
    second = log(tmp_path, SECOND)
    assert second[2] == f"resumed from {receipt['resumed_from']}, 54 steps to go"
    epochs = [line for line in second if line.startswith("epoch")]
    accuracy = f"bucket accuracy {100 * receipt['bucket_accuracy']:.1f} %"
    assert [line.split(":")[0] for line in epochs] == [
        "epoch 1 of 2 ended at step 33",
        "epoch 2 of 2 ended at step 66",
    ]
    assert epochs[1].endswith(f"loss {receipt['loss']:.4f}, {accuracy}")
    assert re.fullmatch(r"done: 66 steps, \d+\.\d s", second[-1])


def test_the_log_has_the_traceback_of_an_error_that_nobody_foresaw(
    tmp_path: Path, config: WorldConfig
) -> None:
    with pytest.raises(Killed):
        run_attempt(str(tmp_path), config, 0, FIRST, report=killed_at(10))
    (line,) = log(tmp_path, FIRST, "ERROR")
    assert line == "Traceback (most recent call last):"
    text = (tmp_path / "worlds/000/attempts/01-aaaa/log.txt").read_text()
    assert text.endswith("    tests.workers.test_attempt.Killed\n")


def test_the_log_has_the_words_of_an_error_that_was_foreseen(
    tmp_path: Path, config: WorldConfig
) -> None:
    missing = world_config(str(tmp_path / "missing.parquet"))
    with pytest.raises(DataError) as caught:
        run_attempt(str(tmp_path), missing, 0, FIRST)
    assert log(tmp_path, FIRST, "ERROR") == [str(caught.value)]


def test_reading_and_writing_are_signs_of_life_too(tmp_path: Path, config: WorldConfig) -> None:
    two_checkpoints(tmp_path, config)
    told: list[str] = []

    def stop() -> bool:
        told.append("step")
        return False

    run_attempt(str(tmp_path), config, 0, THIRD, stop=stop, beat=lambda: told.append("beat"))
    restoring, writing = told.index("step"), told[::-1].index("step")
    # The world that is ready, and three files; the last step, four tensors and their file.
    assert restoring >= 1 + 3
    assert writing >= 1 + 4 + 1
    assert told.count("beat") >= restoring + (STEPS - 20 - 1) + writing
