from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.workers.builders import bits, copies, queries, world_config
from workers.batch import Batch
from workers.classifier import (
    BucketClassifier,
    check_shapes,
    choose_bf16,
    choose_device,
    first_weights,
    parameter_shapes,
    prepare_examples,
)
from workers.config import WorldConfig
from workers.errors import ConfigError, StorageError
from workers.features import Featurizer
from workers.kernels.steps import Examples, first_state
from workers.partition import Partition, PermutationPartition, partition_for
from workers.threads import Pool


def data_of(config: WorldConfig, rows: int = 60) -> tuple[Batch, Partition, Examples]:
    batch = Featurizer(config.data, config.features, 0, 0).batch(queries(rows), labels=True)
    partition = partition_for(config.partition, config.data.classes, 0, 0)
    return batch, partition, prepare_examples(batch, partition)


def classifier_of(config: WorldConfig, pool: Pool) -> BucketClassifier:
    weights = first_weights(config, 0)
    return BucketClassifier(config, weights, first_state(weights), device="cpu", pool=pool)


def test_the_shapes_of_a_network() -> None:
    config = world_config("-", dimension=100, hidden=(20, 30), buckets=10)
    assert parameter_shapes(config) == {
        "input.weight": (100, 20),
        "input.bias": (20,),
        "layer.0.weight": (30, 20),
        "layer.0.bias": (30,),
        "layer.1.weight": (10, 30),
        "layer.1.bias": (10,),
    }
    weights = first_weights(config, 0)
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == parameter_shapes(
        config
    )
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_first_weights_come_from_seed_and_world_alone() -> None:
    config = world_config("-")
    torch.manual_seed(1)
    one = bits(first_weights(config, 3))
    torch.manual_seed(2)
    assert bits(first_weights(config, 3)) == one
    assert bits(first_weights(config, 4))["input.weight"] != one["input.weight"]
    other = bits(first_weights(world_config("-", seed=1), 3))
    assert other["input.weight"] != one["input.weight"]


def test_first_weights_have_the_spread_that_suits_their_layer() -> None:
    config = world_config("-", dimension=2000, hidden=(200, 100), activation="relu", buckets=40)
    weights = first_weights(config, 0)
    spreads = {name: float(tensor.std()) for name, tensor in weights.items()}
    assert spreads["input.weight"] == pytest.approx(0.05, rel=0.02)
    assert spreads["layer.0.weight"] == pytest.approx((2 / 200) ** 0.5, rel=0.03)
    assert spreads["layer.1.weight"] == pytest.approx((1 / 100) ** 0.5, rel=0.05)
    assert all(not weights[name].any() for name in weights if name.endswith("bias"))


def test_with_bce_a_bucket_starts_as_unlikely_as_one_in_all() -> None:
    config = world_config("-", hidden=(8, 8), loss="bce")
    weights = first_weights(config, 0)
    assert weights["layer.1.bias"].tolist() == pytest.approx([-math.log(8)] * 8)
    assert not weights["layer.0.bias"].any()


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_steps_lower_the_loss(loss: str) -> None:
    config = world_config("-", loss=loss, rate=0.02)
    batch, partition, examples = data_of(config)
    with Pool(1) as pool:
        classifier = classifier_of(config, pool)
        losses = [classifier.train_step(examples, step=i + 1, factor=1.0) for i in range(60)]
        probabilities = classifier.probabilities(batch)
    assert losses[-1] < 0.2 * losses[0]
    assert probabilities.shape == (60, 8)
    assert (probabilities.argmax(1) == partition.buckets_of(batch.labels)).mean() > 0.95
    if loss == "softmax":
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_the_factor_scales_both_rates() -> None:
    config = world_config("-")
    _, _, examples = data_of(config)
    with Pool(1) as pool:
        still = classifier_of(config, pool)
        still.train_step(examples, step=1, factor=0.0)
        assert bits(still.parameters) == bits(first_weights(config, 0))
        moved = classifier_of(config, pool)
        moved.train_step(examples, step=1, factor=0.5)
    halved = world_config(
        "-", input_rate=config.optimizer.input_rate / 2, rate=config.optimizer.rate / 2
    )
    with Pool(1) as pool:
        other = classifier_of(halved, pool)
        other.train_step(examples, step=1, factor=1.0)
    assert bits(moved.parameters) == bits(other.parameters)


def test_rows_count_by_their_weights() -> None:
    config = world_config("-")
    batch, partition, _ = data_of(config, rows=4)
    fields = {name: getattr(batch, name) for name in Batch.__slots__ if name != "weights"}
    weights = np.array([1, 0, 2, 0], np.float32)
    heavy = prepare_examples(Batch(**fields, weights=weights), partition)
    assert heavy.scale.tolist() == [0.25, 0, 0.5, 0]
    assert prepare_examples(batch, partition).scale.tolist() == [0.25] * 4


def test_a_rows_buckets_are_sorted() -> None:
    labels = np.array([5, 3, 8, 1, 0, 9, 7], np.int64)
    batch = Batch(
        feature_offsets=np.zeros(8, np.int64),
        feature_ids=np.empty(0, np.int32),
        feature_values=np.empty(0, np.float32),
        label_offsets=np.array([0, 0, 0, 4, 4, 7, 7, 7], np.int64),
        labels=labels,
    )
    partition = PermutationPartition(10, 10, 4)
    examples = prepare_examples(batch, partition)
    buckets = partition.buckets_of(labels).tolist()
    assert examples.buckets.tolist() == [*sorted(buckets[:4]), *sorted(buckets[4:])]
    assert buckets != examples.buckets.tolist()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_restored_classifier_goes_on_with_the_same_bits(precision: str) -> None:
    config = world_config("-", precision=precision)
    batch, _, examples = data_of(config)
    with Pool(1) as pool:
        one = classifier_of(config, pool)
        for step in range(3):
            one.train_step(examples, step=step + 1, factor=1.0)
        kept = copies(one.parameters), copies(one.state)
        one.train_step(examples, step=4, factor=1.0)
        other = classifier_of(config, pool)
        other.restore(*kept)
        other.train_step(examples, step=4, factor=1.0)
        assert one.probabilities(batch).tobytes() == other.probabilities(batch).tobytes()
    assert bits(one.parameters) == bits(other.parameters)
    assert bits(one.state) == bits(other.state)


def test_weights_of_another_network_are_refused() -> None:
    config = world_config("-")
    with Pool(1) as pool:
        classifier = classifier_of(config, pool)
        before = bits(classifier.parameters)
        other = first_weights(world_config("-", buckets=9), 0)
        with pytest.raises(
            StorageError, match=r"layer.0.bias \[8\].* found .*layer.0.bias \[9\].*another network"
        ):
            classifier.restore(other, classifier.state)
        with pytest.raises(StorageError, match="another network"):
            classifier.restore(classifier.parameters, {})
        assert bits(classifier.parameters) == before
    with pytest.raises(StorageError, match="another network"):
        check_shapes({}, parameter_shapes(config))


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"found cuda but no GPU.*set runtime.device=cpu"):
        choose_device("cuda")


def test_precision_is_as_asked() -> None:
    assert choose_bf16("bf16", "cpu")
    assert not choose_bf16("fp32", "cpu")
    assert isinstance(choose_bf16("auto", "cpu"), bool)
