from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.workers.builders import (
    bits,
    copies,
    queries,
    world_config,
    write_queries,
    write_shard,
)
from workers.classifier import BucketClassifier, first_weights, prepare_examples
from workers.config import WorldConfig
from workers.errors import BadShardError, ConfigError, DataError, StorageError, TrainingError
from workers.features import Featurizer
from workers.kernels.steps import first_state
from workers.threads import Pool
from workers.training_data import Ready, TrainingData
from workers.world import Progress, Stopped, World

Saved = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, Any]]
Bits = tuple[dict[str, bytes], dict[str, bytes]]

# 300 rows in blocks of 64 (seven batches each, the last short), then one of 44.
EPOCH_STEPS = 4 * 7 + 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_queries(tmp_path_factory.mktemp("queries"))


def save(world: World) -> Saved:
    """Return what a checkpoint keeps, through JSON as on storage."""
    state = json.loads(json.dumps(world.state()))
    return copies(world.parameters), copies(world.optimizer_state), state


def result(world: World) -> Bits:
    return bits(world.parameters), bits(world.optimizer_state)


def train(config: WorldConfig, index: int = 2) -> Bits:
    world = World(config, index)
    world.train()
    world.close()
    return result(world)


def train_until(config: WorldConfig, step: int, saved: Saved | None = None) -> Saved | None:
    """Train a fresh world, from `saved` on, to `step`; return None if it came to its end."""
    world = World(config, 2)
    if saved:
        world.restore(*saved)
    try:
        world.train(stop=lambda: world.step >= step)
    except Stopped:
        return save(world)
    else:
        return None
    finally:
        world.close()


def resumed(config: WorldConfig, saved: Saved | None) -> Bits:
    assert saved is not None
    world = World(config, 2)
    world.restore(*saved)
    world.train()
    world.close()
    return result(world)


@pytest.fixture(scope="module")
def undisturbed(folder: str) -> Bits:
    return train(world_config(folder))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_world_has_the_same_bits_with_any_number_of_threads(folder: str, precision: str) -> None:
    one, two = (
        train(world_config(folder, threads=threads, precision=precision)) for threads in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize(
    "step",
    [0, 1, 3, 7, 8, 28, EPOCH_STEPS - 1, EPOCH_STEPS, EPOCH_STEPS + 1, 2 * EPOCH_STEPS - 1],
)
def test_a_stopped_world_ends_with_the_same_bits(folder: str, undisturbed: Bits, step: int) -> None:
    config = world_config(folder)
    saved = train_until(config, step)
    assert saved is not None
    assert saved[2]["step"] == step
    assert resumed(config, saved) == undisturbed


def test_a_world_that_waits_for_rows_can_be_stopped(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def outage(*_: object) -> Iterator[Ready]:
        released.wait(60)
        yield from ()

    def stop() -> bool:
        released.set()
        return True

    monkeypatch.setattr(TrainingData, "batches", outage)
    world = World(world_config(folder), 2)
    with pytest.raises(Stopped, match="step 0"):
        world.train(stop_waiting=stop)
    world.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_world_that_is_stopped_again_and_again(folder: str, precision: str) -> None:
    config = world_config(folder, precision=precision)
    saved: Saved | None = None
    for step in range(9, 2 * EPOCH_STEPS, 9):
        saved = train_until(config, step, saved)
    # Threads are free to change between attempts.
    assert resumed(world_config(folder, precision=precision, threads=2), saved) == train(config)


def test_features_that_are_left_out_are_the_same_after_a_stop(
    folder: str, undisturbed: Bits
) -> None:
    config = world_config(folder, dropout=0.3)
    wanted = train(config)
    assert wanted != undisturbed
    assert resumed(config, train_until(config, EPOCH_STEPS + 3)) == wanted


def test_a_world_goes_on_from_a_checkpoint_that_did_not_stop_it(folder: str) -> None:
    config = world_config(folder, checkpoint_steps=12)
    kept: list[Saved] = []

    def keep(world: World) -> bool:
        kept.append(save(world))
        return True

    world = World(config, 2)
    world.train(checkpoint=keep)
    world.close()
    assert [saved[2]["step"] for saved in kept] == [12, 24, 36, 48, 60]
    assert all(resumed(config, saved) == result(world) for saved in (kept[0], kept[-1]))


def test_a_checkpoint_that_was_not_taken_is_offered_after_every_step(folder: str) -> None:
    world = World(world_config(folder, checkpoint_steps=30), 2)
    offered: list[int] = []

    def third_time(world: World) -> bool:
        offered.append(world.step)
        return len(offered) % 3 == 0

    world.train(checkpoint=third_time)
    world.close()
    # Never at the end, where the weights themselves are handed in.
    assert offered == [30, 31, 32, 60, 61, 62]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_copy_has_all_bits(folder: str, threads: int) -> None:
    world = World(world_config(folder, threads=threads, dimension=3_000_000), 0)
    parameters = {name: torch.zeros_like(t) for name, t in world.parameters.items()}
    optimizer = {name: torch.ones_like(t) for name, t in world.optimizer_state.items()}
    world.copy_to(parameters, optimizer)
    assert (bits(parameters), bits(optimizer)) == result(world)
    world.close()


def test_every_step_and_every_batch_of_a_validation_is_a_sign_of_life(folder: str) -> None:
    world = World(world_config(folder, validation=folder), 0)
    beats: Counter[int] = Counter()
    world.train(beat=lambda: beats.update([world.step]))
    world.close()
    assert sorted(beats) == list(range(1, world.steps + 1))
    validated = {step: count for step, count in beats.items() if count > 1}
    # The seven row groups are read one by one.
    assert validated == {EPOCH_STEPS: 1 + 7, world.steps: 1 + 7}


def test_a_state_with_odd_contents_is_refused_before_anything_is_taken_over(folder: str) -> None:
    config = world_config(folder)
    saved = train_until(config, 9)
    assert saved is not None
    model, optimizer, state = saved
    position = state["position"]
    odd: list[dict[str, Any]] = [
        {},
        {**state, "step": -1},
        {**state, "step": "9"},
        {**state, "step": 10**30},
        {**state, "position": 3},
        {**state, "position": {**position, "block": 1.5}},
        {**state, "position": {**position, "row": True}},
        {**state, "position": {**position, "epoch": 10**30}},
        {**state, "position": {**position, "block": 10**30}},
        {**state, "position": {**position, "row": 10**30}},
        {**state, "position": {**position, "column": 1}},
        {**state, "bucket_accuracy": "good"},
        {**state, "computed_on": [1]},
        {**state, "computed_on": None},
    ]
    world = World(config, 2)
    before = result(world)
    for wrong in odd:
        with pytest.raises(StorageError, match=r"state of a world: expected .* remove it"):
            world.restore(model, optimizer, wrong)
    assert (result(world), world.step) == (before, 0)
    world.close()


def test_both_rates_fall_in_a_line_to_zero(tmp_path: Path) -> None:
    # One batch an epoch.
    table = queries(60)
    shard = write_shard(tmp_path / "x.parquet", table)
    config = world_config(shard, epochs=4, batch_size=60)
    world = World(config, 0)
    world.train()
    batch = Featurizer(config.data, config.features, config.seed, 0).batch(table, labels=True)
    examples = prepare_examples(batch, world.partition)
    weights = first_weights(config, 0)
    with Pool(1) as pool:
        plain = BucketClassifier(config, weights, first_state(weights), device="cpu", pool=pool)
        for step, factor in enumerate([1.0, 0.75, 0.5, 0.25]):
            plain.train_step(examples, step=step + 1, factor=factor)
    world.close()
    # The rows of the batch stand in another order: the sums are rounded otherwise.
    for name, tensor in weights.items():
        torch.testing.assert_close(world.parameters[name], tensor, rtol=1e-3, atol=1e-4)


def test_worlds_differ_and_seeds_differ(folder: str) -> None:
    config = world_config(folder, epochs=1)
    ends = [train(config, 0), train(config, 1), train(world_config(folder, epochs=1, seed=1), 0)]
    weights = {end[0]["layer.0.weight"] for end in ends}
    assert len(weights) == 3


def test_worlds_side_by_side_in_one_process(folder: str) -> None:
    config = world_config(folder, threads=2)
    ends: dict[int, Bits] = {}
    threads = [
        threading.Thread(target=lambda i=i: ends.update({i: train(config, i)})) for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == {0: train(config, 0), 1: train(config, 1)}


def test_training_ends_its_threads(folder: str) -> None:
    before = set(threading.enumerate())
    train(world_config(folder, threads=2, epochs=1))
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_a_world_learns(tmp_path: Path, loss: str) -> None:
    write_queries(tmp_path / "train")
    held_out = write_shard(tmp_path / "held.parquet", queries(100, seed=1))
    config = world_config(
        str(tmp_path / "train"), loss=loss, validation=held_out, epochs=12, hidden=(16,)
    )
    world = World(config, 0)
    seen: list[Progress] = []
    world.train(report=seen.append)
    world.close()
    assert world.bucket_accuracy is not None
    assert world.bucket_accuracy > 0.9
    assert seen[-1].loss < 0.2 * seen[0].loss


def test_every_epoch_is_validated_and_reported(folder: str) -> None:
    config = world_config(folder, epochs=3, validation=folder, validation_rows=50, report_steps=20)
    world = World(config, 0)
    clock = itertools.count(100, 2)
    seen: list[Progress] = []
    world.train(report=seen.append, clock=lambda: next(clock))
    world.close()
    assert [(p.step, p.epoch) for p in seen] == [
        (20, 0),
        (33, 0),
        (40, 1),
        (60, 1),
        (66, 1),
        (80, 2),
        (99, 2),
    ]
    assert [p.epoch_ended for p in seen] == [p.step % EPOCH_STEPS == 0 for p in seen]
    assert [p.bucket_accuracy is None for p in seen] == [True] + [False] * 6
    assert seen[-1].bucket_accuracy == world.bucket_accuracy
    assert {p.steps for p in seen} == {world.steps} == {99}
    # 20 steps: two blocks of 64 rows and six batches of 10 of a third; then the rest of all rows.
    assert [p.rows for p in seen[:2]] == [64 + 64 + 60, 300 - 64 - 64 - 60]
    json.dumps(seen[0].to_dict())


def test_validation_takes_time_but_does_not_slow_the_pace(folder: str) -> None:
    config = world_config(folder, epochs=2, validation=folder, report_steps=20)
    world = World(config, 0)
    now = 0.0

    def beat() -> None:
        # After every step, and after each of the seven batches of a validation.
        nonlocal now
        now += 1.0

    seen: list[Progress] = []
    world.train(report=seen.append, beat=beat, clock=lambda: now)
    world.close()
    assert [p.step for p in seen] == [20, 33, 40, 60, 66]
    assert [p.seconds for p in seen] == [20, 33 + 7, 40 + 7, 60 + 7, 66 + 14]
    assert [p.rows_per_second for p in seen] == [
        pytest.approx(p.rows / steps) for p, steps in zip(seen, [20, 13, 7, 20, 6], strict=True)
    ]


def test_validation_does_not_change_the_weights(folder: str, undisturbed: Bits) -> None:
    assert train(world_config(folder, validation=folder)) == undisturbed


def test_bucket_accuracy_counts_rows_with_any_label_found(tmp_path: Path) -> None:
    # All classes that a row may have are there beside those that it cannot have.
    rows = [[label, (label + 1) % 40] for label in range(40)]
    table = pa.table({"query": [f"thing{label}" for label in range(40)], "labels": rows})
    train_on = write_shard(tmp_path / "train.parquet", table)
    lists = [*rows[:20], *[[] for _ in range(20)]]
    held = table.set_column(1, "labels", pa.array(lists, table["labels"].type))
    config = world_config(
        train_on, validation=write_shard(tmp_path / "held.parquet", held), epochs=60, hidden=(32,)
    )
    world = World(config, 0)
    world.train()
    world.close()
    # Half of the rows have no label that could be found.
    assert world.bucket_accuracy is not None
    assert 0.45 <= world.bucket_accuracy <= 0.5


def test_a_wrong_validation_set_is_found_before_training(folder: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.parquet.*found no file"):
        World(world_config(folder, validation=str(tmp_path / "missing.parquet")), 0)
    other = write_shard(tmp_path / "other.parquet", pa.table({"labels": [1]}))
    with pytest.raises(DataError, match=r"other.parquet: expected a column 'query'"):
        World(world_config(folder, validation=other), 0)


def test_all_wrong_settings_are_named_at_once(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)partition.buckets.*features.dimension"):
        World(world_config(folder, buckets=1, dimension=1), 0)


def test_a_loss_that_is_no_number_names_step_shard_and_row_group(folder: str) -> None:
    world = World(world_config(folder, rate=1e38), 0)
    wanted = (
        r"world 0, step \d+: expected a finite loss, found (nan|inf), on rows of"
        r" \S+/[ab].parquet, row group \d.*lower optimizer.rate"
    )
    with pytest.raises(TrainingError, match=wanted):
        world.train()
    world.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_name_step_shard_row_group_and_row(
    tmp_path: Path, value: float
) -> None:
    values = [[1.0, 2.0]] * 100
    values[57] = [1.0, value]
    table = pa.table({"ids": [[1, 2]] * 100, "values": values, "labels": [1] * 100})
    shard = write_shard(tmp_path / "v.parquet", table, rows=50)
    config = world_config(shard, text=(), indices="ids", values="values", block_rows=10)
    world = World(config, 0)
    wanted = (
        r"world 0, step \d+: \S+/v.parquet, row group 1, row 7: expected finite numbers in"
        r" column 'values', found (nan|inf|1e\+300); mend or drop"
    )
    with pytest.raises(DataError, match=wanted):
        world.train()
    # The batches before the bad block were trained on.
    assert world.step == 0 or world.state()["position"]["block"] < 10
    world.close()


def test_a_shard_that_breaks_during_training_names_the_step(tmp_path: Path) -> None:
    folder = write_queries(tmp_path)
    world = World(world_config(folder), 0)
    for shard in tmp_path.glob("*.parquet"):
        shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(BadShardError, match=r"world 0, step 1: \S+.parquet.*restore the file"):
        world.train()
    world.close()


def test_a_checkpoint_of_another_network_is_refused(folder: str) -> None:
    saved = train_until(world_config(folder), 1)
    assert saved is not None
    world = World(world_config(folder, hidden=(9,)), 2)
    with pytest.raises(StorageError, match="another network"):
        world.restore(*saved)
    world.close()


def test_a_trained_world_has_nothing_left_to_train(folder: str) -> None:
    world = World(world_config(folder, epochs=1), 0)
    world.train()
    before = result(world)
    world.train()
    world.close()
    assert result(world) == before
    assert world.step == world.steps == EPOCH_STEPS
