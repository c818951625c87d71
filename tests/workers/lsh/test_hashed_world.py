from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.workers.builders import (
    bits,
    copies,
    queries,
    stopped_at,
    world_config,
    write_queries,
    write_shard,
)
from tests.workers.networks import batch_of, network
from workers.classifier import BucketClassifier, BucketPredictor, first_weights
from workers.config import WorldConfig
from workers.errors import ConfigError, StorageError
from workers.features import Featurizer
from workers.hashing import derive_seed
from workers.kernels.cpu_forward import CpuForward
from workers.kernels.steps import Rows, first_state
from workers.kernels.torch_steps import TorchSteps
from workers.lsh.codes import Codes
from workers.lsh.config import LshConfig
from workers.lsh.layer import HashedLayer
from workers.lsh.network import first_codes, layers_of
from workers.lsh.weights import RowNeurons
from workers.precision import PRECISIONS, narrowed
from workers.threads import Pool
from workers.world import Stopped, World

Bits = tuple[dict[str, bytes], dict[str, bytes]]
FAMILIES = ("signs", "winners")


def lsh(family: str = "signs", **changes: object) -> LshConfig:
    values = {"family": family, "tables": 9, "narrowest": 6, "rebuild_steps": 3, "bits": 3}
    return LshConfig(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_queries(tmp_path_factory.mktemp("queries"))


def hashed(folder: str, family: str = "signs", **changes: object) -> WorldConfig:
    """Return a world whose input, hidden and last layer are hashed."""
    given = {"hidden": (12, 10), "activation": "relu", "active": 0.4, "lsh": lsh(family)}
    return world_config(folder, **{**given, **changes})


def result(world: World) -> Bits:
    return bits(world.parameters), bits(world.optimizer_state)


def train(config: WorldConfig) -> Bits:
    world = World(config, 2)
    world.train()
    world.close()
    return result(world)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("asymmetric", "candidates"), [(False, 1), (True, 1), (False, 3)])
def test_a_stopped_world_ends_with_the_same_bits_on_any_number_of_threads(
    folder: str, family: str, asymmetric: bool, candidates: int
) -> None:
    settings = lsh(family, asymmetric=asymmetric, candidates=candidates)
    wanted = train(hashed(folder, lsh=settings))
    for step, threads in ((1, 1), (5, 3), (29, 2)):
        config = hashed(folder, lsh=settings, threads=threads)
        world = World(config, 2)
        with pytest.raises(Stopped):
            world.train(stop=stopped_at(step))
        world.close()
        kept = copies(world.parameters), copies(world.optimizer_state)
        state = json.loads(json.dumps(world.state()))
        other = World(config, 2)
        other.restore(*kept, state)
        other.train()
        other.close()
        assert result(other) == wanted


def test_a_world_whose_batches_share_buckets_ends_with_the_same_bits(folder: str) -> None:
    settings = lsh(shared=True)
    wanted = train(hashed(folder, lsh=settings))
    for step, threads in ((1, 1), (29, 3)):
        config = hashed(folder, lsh=settings, threads=threads)
        world = World(config, 2)
        with pytest.raises(Stopped):
            world.train(stop=stopped_at(step))
        world.close()
        kept = copies(world.parameters), copies(world.optimizer_state)
        other = World(config, 2)
        other.restore(*kept, world.state())
        other.train()
        other.close()
        assert result(other) == wanted


def test_only_wide_layers_are_hashed(folder: str) -> None:
    config = hashed(folder, hidden=(5, 20))
    assert [layer.active for layer in layers_of(config)] == [5, 8, 3]
    assert {name: tuple(tensor.shape) for name, tensor in first_codes(config).items()} == {
        "layer.0.codes": (9, 20),
        "layer.0.offset": (7,),
        "layer.0.centre": (5,),
        "layer.0.touches": (20,),
        "layer.1.codes": (9, 8),
        "layer.1.offset": (22,),
        "layer.1.centre": (20,),
        "layer.1.touches": (8,),
    }
    assert not first_codes(world_config(folder))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_a_hashed_world_learns(tmp_path: Path, family: str, loss: str) -> None:
    write_queries(tmp_path / "train")
    held_out = write_shard(tmp_path / "held.parquet", queries(100, seed=1))
    config = hashed(
        str(tmp_path / "train"),
        family,
        loss=loss,
        hidden=(16,),
        validation=held_out,
        epochs=12,
        buckets=20,
        activation="linear",
        lsh=lsh(family, narrowest=17),
    )
    world = World(config, 0)
    assert [layer.active for layer in layers_of(config)] == [16, 8]
    world.train()
    world.close()
    assert world.bucket_accuracy is not None
    assert world.bucket_accuracy > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_world_asked_by_tables_learns(tmp_path: Path, family: str) -> None:
    """With hidden layers of which few neurons fire: those that tables name, in training and after.

    A model that is opened anew has tables of its last weights, and answers as well.
    """
    write_queries(tmp_path / "train")
    held_out = write_shard(tmp_path / "held.parquet", queries(100, seed=1))
    config = hashed(
        str(tmp_path / "train"),
        family,
        hidden=(40, 40),
        validation=held_out,
        epochs=12,
        buckets=20,
        lsh=lsh(family, tables=40, predict="tables", narrowest=30, rebuild_steps=1),
    )
    world = World(config, 0)
    assert [layer.active for layer in layers_of(config)] == [16, 16, 20]
    world.train()
    assert world.bucket_accuracy is not None
    assert world.bucket_accuracy > 0.5
    batch = Featurizer(config.data, config.features, config.seed, 0).batch(
        pq.read_table(held_out), labels=True
    )
    buckets = world.partition.buckets_of(batch.labels)
    world.close()
    for weights in PRECISIONS:
        with Pool(2) as pool:
            model = narrowed(world.model, weights)
            predictor = BucketPredictor(config, model, device="cpu", pool=pool)
            found = predictor.probabilities(batch).argmax(1).numpy()
        assert batch.rows_found(buckets, found) > 0.5 * len(batch)


def test_what_is_asked_by_tables_has_no_other_buckets(folder: str) -> None:
    config = hashed(folder, lsh=lsh(predict="tables"), loss="softmax")
    world = World(config, 0)
    world.train()
    batch = batch_of(np.random.default_rng(0), 30, config)
    with Pool(2) as pool:
        predictor = BucketPredictor(config, world.model, device="cpu", pool=pool)
        found = predictor.probabilities(batch)
        dense = BucketPredictor(
            hashed(folder), world.parameters, device="cpu", pool=pool
        ).probabilities(batch)
    world.close()
    assert ((found > 0).sum(1) == layers_of(config)[-1].active).all()
    assert torch.allclose(found.sum(1), torch.ones(30), atol=1e-5)
    assert (dense > 0).all()
    assert set(world.model) - set(world.parameters) == {
        "input.seen",
        "input.centre",
        "layer.0.centre",
        "layer.1.centre",
    }


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("codes", r"layer\.0\.codes: expected hash codes of 3 bits, found 65535"),
        ("touches", r"layer\.0\.touches: expected counts of steps, found -1"),
    ],
)
def test_a_state_that_was_altered_is_refused(folder: str, name: str, problem: str) -> None:
    world = World(hashed(folder), 0)
    state = copies(world.optimizer_state)
    state[f"layer.0.{name}"][..., 4] = -1
    with pytest.raises(StorageError, match=problem):
        world.restore(world.parameters, state, world.state())
    world.close()


def test_a_gpu_is_refused(folder: str) -> None:
    config = hashed(folder)
    weights = first_weights(config, 0)
    with Pool(1) as pool, pytest.raises(ConfigError, match=r"set runtime\.device=cpu"):
        state = first_state(weights) | first_codes(config)
        BucketClassifier(config, weights, state, device="cuda", pool=pool)


@pytest.mark.parametrize("bf16", [False, True])
def test_prediction_lets_as_many_hidden_neurons_fire(bf16: bool) -> None:
    config, weights = network(hidden=(17, 9), buckets=12)
    batch = batch_of(np.random.default_rng(0), 40, config)
    kept = {0: 4, 1: 2}
    with Pool(2) as pool:
        fast = CpuForward(weights, loss="softmax", relu=True, bf16=bf16, pool=pool, kept=kept)
        found = fast.probabilities(Rows.of(batch))
        other = CpuForward(weights, loss="softmax", relu=True, bf16=bf16, pool=pool)
        assert not torch.allclose(found, other.probabilities(Rows.of(batch)), atol=1e-3)
    plain = TorchSteps(weights, {}, loss="softmax", relu=True, bf16=bf16, kept=kept)
    # In bf16 rounding may choose another neuron of nearly equal ones.
    rows = (found - plain.probabilities(Rows.of(batch))).abs().max(1).values < 1e-2
    assert rows.float().mean() > (0.7 if bf16 else 0.99)


def test_equal_activations_fire_from_the_first_on() -> None:
    config, weights = network(hidden=(9,), buckets=5)
    weights["input.weight"].zero_()
    weights["input.bias"].fill_(1)
    batch = batch_of(np.random.default_rng(0), 3, config)
    with Pool(1) as pool:
        fast = CpuForward(weights, loss="bce", relu=True, bf16=False, pool=pool, kept={0: 2})
        found = fast.probabilities(Rows.of(batch))
    logits = weights["layer.0.weight"][:, :2].sum(1) + weights["layer.0.bias"]
    assert torch.allclose(found, logits.sigmoid().expand(3, 5), atol=1e-6)


def test_a_predictor_answers_as_the_world_that_was_trained(folder: str) -> None:
    config = hashed(folder)
    world = World(config, 0)
    world.train()
    rng = np.random.default_rng(0)
    batch = batch_of(rng, 30, config)
    with Pool(2) as pool:
        predictor = BucketPredictor(config, world.parameters, device="cpu", pool=pool)
        expected = world.classifier.probabilities(batch)
        assert np.array_equal(predictor.probabilities(batch).numpy(), expected)
    world.close()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"active": 0.0}, "model.active: expected a share, above 0 and up to 1, found 0.0"),
        ({"active": 1.5}, "model.active: expected a share, above 0 and up to 1, found 1.5"),
        ({"lsh": LshConfig(bits=17)}, "model.lsh.bits: expected 1 to 16, found 17"),
        (
            {"lsh": LshConfig(family="winners", bits=7)},
            "model.lsh.bits: expected a multiple of 3 for model.lsh.family=winners, found 7",
        ),
        (
            {"lsh": LshConfig(bits=2, probes=4, tables=9)},
            "model.lsh.probes: expected 1 to 3, found 4",
        ),
        ({"lsh": LshConfig(tables=128)}, "model.lsh.tables: expected 1 to 127, found 128"),
        ({"lsh": LshConfig(candidates=0)}, "model.lsh.candidates: expected at least 1, found 0"),
        ({"lsh": LshConfig(narrowest=1)}, "model.lsh.narrowest: expected at least 2, found 1"),
        (
            {"lsh": LshConfig(shared=True, predict="tables")},
            "model.lsh.predict: expected dense for model.lsh.shared=true, as a query has no batch"
            " to share with, found tables",
        ),
        (
            {"lsh": LshConfig(rebuild_steps=0)},
            "model.lsh.rebuild_steps: expected at least 1, found 0",
        ),
        (
            {"lsh": LshConfig(rebuild_growth=0.5)},
            "model.lsh.rebuild_growth: expected at least 1, found 0.5",
        ),
    ],
)
def test_settings_that_cannot_work_are_named(changes: dict[str, object], problem: str) -> None:
    assert world_config("-", **changes).problems() == [problem]


def test_what_is_not_hashed_is_told_apart_by_nothing_of_hashing() -> None:
    plain, other = world_config("-"), world_config("-", lsh=LshConfig(tables=5))
    assert plain.digest() == other.digest()
    assert "lsh" not in plain.to_dict()["model"]
    few, more = (world_config("-", active=0.5, lsh=LshConfig(tables=n)) for n in (5, 6))
    assert len({plain.digest(), few.digest(), more.digest()}) == 3
    assert few.to_dict()["model"]["lsh"]["tables"] == 5


def test_neurons_that_a_step_moved_have_their_codes_at_once(folder: str) -> None:
    # One label a row and one row a step: its bucket of 600 and another one move.
    config = hashed(
        folder,
        hidden=(5,),
        classes=3000,
        buckets=600,
        active=0.003,
        batch_size=1,
        lsh=lsh(narrowest=6, rebuild_steps=1000),
    )
    world = World(config, 2)
    seen = set()
    # After the first step all are hashed anew in the second.
    for steps in (2, 3, 30):
        with pytest.raises(Stopped):
            world.train(stop=stopped_at(steps))
        codes = world.optimizer_state["layer.0.codes"].numpy().view(np.uint16)
        assert np.array_equal(codes, codes_now(world))
        seen.add(codes.tobytes())
    assert len(seen) > 1
    world.close()


def codes_now(world: World) -> Codes:
    """Return the codes that a world's buckets have with its present weights."""
    made = first_codes(world.config)["layer.0.codes"].numpy().view(np.uint16)
    neurons = RowNeurons(
        world.parameters["layer.0.weight"].numpy(), world.parameters["layer.0.bias"].numpy()
    )
    state = world.optimizer_state
    offset, centre = (state[f"layer.0.{name}"].numpy() for name in ("offset", "centre"))
    with Pool(1) as pool:
        seed = derive_seed(world.config.seed, "lsh", 1)
        hashed_layer = HashedLayer(
            neurons, world.config.model.lsh, seed, made, offset, centre, pool
        )
        return hashed_layer.codes_of(np.arange(600, dtype=np.int32))[0]
