"""The classifier of one world: sparse features in, B bucket probabilities out."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.batch import Batch
from workers.config import WorldConfig
from workers.errors import ConfigError, StorageError
from workers.hashing import derive_seed
from workers.kernels.batches import sort_within_rows, transpose
from workers.kernels.cpu_forward import CpuForward
from workers.kernels.cpu_steps import CpuSteps
from workers.kernels.steps import Examples, Rows, Shapes, Steps, Tensors, network_shapes
from workers.kernels.torch_steps import TorchSteps
from workers.lsh.network import (
    asking_shapes,
    asking_tensors,
    check_hashing,
    has_own_sets,
    hashed_steps,
    is_hashed,
    kept_neurons,
    table_steps,
)
from workers.partition import Partition
from workers.precision import SCALE, widened
from workers.threads import Pool

if TYPE_CHECKING:
    from workers.kernels.gpu_steps import GpuSteps

_INPUT_SCALE = 0.05
"""Standard deviation of the input layer's first weights."""


class BucketClassifier:
    """A network from d hashed features to B buckets, with its optimiser.

    Sparse embedding-bag to the first hidden layer, further hidden layers, linear or ReLU,
    B outputs (Medini et al. 2019, section 4). fp32 master weights; matrix
    products in bf16 where the device has it.

    Args:
        config: of the world.
        parameters: `input.weight` (d, h), `input.bias` (h,), `layer.0.weight`
            (out, in), `layer.0.bias` (out,), ...; float32 on `device`.
        state: the optimiser's, as `kernels.steps.first_state` makes it.
        device: `cpu` or `cuda`, as `choose_device` returns it.
        pool: threads that compute on the CPU.

    Raises:
        StorageError: if names or shapes are those of another network.
    """

    def __init__(
        self,
        config: WorldConfig,
        parameters: Tensors,
        state: Tensors,
        *,
        device: str,
        pool: Pool,
    ) -> None:
        check_shapes(parameters, parameter_shapes(config))
        self.parameters = parameters
        self.state = state
        hashed = is_hashed(config)
        self.bf16 = not has_own_sets(config) and choose_bf16(config.training.precision, device)
        self._config = config
        loss, relu = config.model.loss, config.model.activation == "relu"
        self._steps: Steps
        if hashed:
            if device != "cpu":
                raise ConfigError(
                    f"model.active: expected a device that can train on active neurons, found"
                    f" {device}; set runtime.device=cpu, or model.active=1 to compute all neurons"
                )
            check_hashing(config, state)
            self._steps = hashed_steps(config, parameters, state, bf16=self.bf16, pool=pool)
        elif device == "cpu":
            self._steps = CpuSteps(
                self.parameters, self.state, loss=loss, relu=relu, bf16=self.bf16, pool=pool
            )
        else:
            self._steps = _gpu_steps(device)(
                self.parameters, self.state, loss=loss, relu=relu, bf16=self.bf16
            )
        self.kernels = not isinstance(self._steps, TorchSteps)

    def train_step(self, examples: Examples, *, step: int, factor: float) -> float:
        """Make one step of the optimiser and return the batch's loss.

        Args:
            examples: from `prepare_examples`.
            step: its number, from 1.
            factor: of both learning rates, from the schedule.
        """
        return self._steps.train(
            examples,
            step=step,
            input_rate=self._config.optimizer.input_rate * factor,
            rate=self._config.optimizer.rate * factor,
        )

    def probabilities(self, batch: Batch) -> NDArray[np.float32]:
        """Return the (n, B) float32 probabilities of a batch's rows."""
        return self._steps.probabilities(Rows.of(batch)).cpu().numpy()

    def model(self) -> Tensors:
        """Return what predicts, of `model_shapes`."""
        return self.parameters | asking_tensors(self._config, self.state)

    def compute_by(self, steps: Steps) -> None:
        """Let others compute, with the same parameters and state: to compare them."""
        self._steps = steps

    def restore(self, parameters: Tensors, state: Tensors) -> None:
        """Take over the values of a checkpoint.

        Raises:
            StorageError: if names or shapes are those of another network.
        """
        both = (self.parameters, parameters), (self.state, state)
        for mine, given in both:
            check_shapes(given, {name: tuple(tensor.shape) for name, tensor in mine.items()})
        check_hashing(self._config, state)
        for mine, given in both:
            for name, tensor in mine.items():
                tensor.copy_(given[name])
        self._steps.refresh()


class BucketPredictor:
    """A trained network that only predicts, with its weights in any precision.

    On a GPU the weights are float32, whatever they are given in.

    Args:
        config: of the world.
        parameters: of `model_shapes`, in any of `workers.precision.PRECISIONS`.
        device: `cpu` or `cuda`, as `choose_device` returns it.
        pool: threads that compute on the CPU.

    Raises:
        StorageError: if names or shapes are those of another network.
    """

    def __init__(
        self, config: WorldConfig, parameters: Tensors, *, device: str, pool: Pool
    ) -> None:
        shapes = model_shapes(config)
        if any(name.endswith(SCALE) for name in parameters):
            matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
            shapes |= {name + SCALE: shape[:1] for name, shape in matrices.items()}
        check_shapes(parameters, shapes)
        bf16 = choose_bf16(config.training.precision, device)
        loss, relu = config.model.loss, config.model.activation == "relu"
        self._forward: CpuForward | Steps
        kept, beside = kept_neurons(config), asking_shapes(config)
        if device == "cpu" and beside:
            self._forward = table_steps(config, widened(parameters), pool)
            return
        parameters = {name: tensor for name, tensor in parameters.items() if name not in beside}
        if device == "cpu":
            self._forward = CpuForward(
                parameters, loss=loss, relu=relu, bf16=bf16, pool=pool, kept=kept
            )
        elif kept:
            self._forward = TorchSteps(
                widened(parameters), {}, loss=loss, relu=relu, bf16=bf16, kept=kept
            )
        else:
            self._forward = _gpu_steps(device)(
                widened(parameters), {}, loss=loss, relu=relu, bf16=bf16
            )

    def probabilities(self, batch: Batch) -> Tensor:
        """Return the (n, B) float32 probabilities of a batch's rows, where they were computed."""
        return self._forward.probabilities(Rows.of(batch))


def parameter_shapes(config: WorldConfig) -> Shapes:
    """Return the names and shapes of a network's parameters."""
    return network_shapes(
        (config.features.dimension, *config.model.hidden, config.partition.buckets)
    )


def model_shapes(config: WorldConfig) -> Shapes:
    """Return the names and shapes of what predicts: parameters, and what hash tables need."""
    return parameter_shapes(config) | asking_shapes(config)


def check_shapes(tensors: Tensors, wanted: Shapes) -> None:
    """Check the names and shapes of tensors.

    Raises:
        StorageError: if they are others than `wanted`.
    """
    found: Shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted:
        raise StorageError(
            f"weights: expected {_listing(wanted)}, found {_listing(found)};"
            " they belong to another network"
        )


def first_weights(config: WorldConfig, world: int) -> Tensors:
    """Return a world's seeded first parameters, float32 on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, world, "weights") >> 1)
    shapes = parameter_shapes(config)
    last = f"layer.{len(config.model.hidden) - 1}"
    relu = config.model.activation == "relu"
    weights = {}
    for name, shape in shapes.items():
        tensor = torch.zeros(shape)
        if name == "input.weight":
            tensor.normal_(0, _INPUT_SCALE, generator=generator)
        elif name.endswith(".weight"):
            gain = 2.0 if relu and not name.startswith(last) else 1.0
            tensor.normal_(0, (gain / shape[1]) ** 0.5, generator=generator)
        elif name.startswith(last) and config.model.loss == "bce":
            # With binary cross-entropy a bucket starts as unlikely as one in B.
            tensor.fill_(-math.log(shape[0]))
        weights[name] = tensor
    return weights


def prepare_examples(batch: Batch, partition: Partition) -> Examples:
    """Return a batch ready to train on: labels as buckets, features with their rows."""
    buckets = partition.buckets_of(batch.labels)
    offsets = batch.label_offsets
    sort_within_rows(offsets, buckets)
    features, starts, rows32, values = transpose(
        batch.feature_offsets, batch.feature_ids, batch.feature_values
    )
    weights = np.ones(len(batch), np.float32) if batch.weights is None else batch.weights
    return Examples(
        offsets=batch.feature_offsets,
        ids=batch.feature_ids,
        values=batch.feature_values,
        label_offsets=offsets,
        buckets=buckets,
        scale=weights / np.float32(len(batch)),
        features=features,
        feature_starts=starts,
        feature_rows=rows32,
        feature_values=values,
    )


def choose_device(device: str) -> str:
    """Return the device that `runtime.device` stands for on this machine.

    Raises:
        ConfigError: if it asks for a GPU and Torch sees none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"runtime.device: expected a device of this machine, found {device} but no GPU that"
            " Torch can use; set runtime.device=cpu, or install a CUDA build of Torch"
        )
    return device


def choose_bf16(precision: str, device: str) -> bool:
    """Return whether products are taken in bf16: if asked to, or where it is fast."""
    if precision != "auto":
        return precision == "bf16"
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.cuda.is_bf16_supported())


def describe_device(device: str, *, bf16: bool, kernels: bool = True) -> str:
    """Return the words for what computes: equal words promise equal bits."""
    kind = torch.backends.cpu.get_cpu_capability()
    if device != "cpu":
        kind = torch.cuda.get_device_name(device)
    return f"{device} {kind} {'bf16' if bf16 else 'fp32'}{'' if kernels else ' plain Torch'}"


@functools.cache
def _gpu_steps(device: str) -> type[GpuSteps] | type[TorchSteps]:
    """Return what trains there: kernels if they can be built, else plain Torch."""
    try:
        # Triton comes with Torch's builds for GPUs, not with those for CPUs.
        from workers.kernels.gpu_steps import GpuSteps, works
    except ImportError:
        return TorchSteps
    return GpuSteps if works(device) else TorchSteps


def _listing(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
