"""The hashed layers of a world's network: which they are, what they keep, what trains them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from workers.config import WorldConfig
from workers.errors import StorageError
from workers.hashing import derive_seed
from workers.kernels.steps import Tensors
from workers.lsh.chooser import HashChooser
from workers.lsh.codes import EXTRA
from workers.lsh.layer import HashedLayer, Neurons
from workers.lsh.steps import ActiveSteps
from workers.lsh.tables import table_bytes
from workers.lsh.weights import InputNeurons, RowNeurons
from workers.threads import Pool


def active_neurons(config: WorldConfig) -> list[int]:
    """Return how many neurons of each layer a row computes, hidden layers first, then buckets."""
    widths = (*config.model.hidden, config.partition.buckets)
    share, narrowest = config.model.active, config.model.lsh.narrowest
    return [max(1, round(share * w)) if share < 1 and w >= narrowest else w for w in widths]


def is_hashed(config: WorldConfig) -> bool:
    """Return whether any layer is."""
    return active_neurons(config) != [*config.model.hidden, config.partition.buckets]


def kept_neurons(config: WorldConfig) -> dict[int, int]:
    """Return how many neurons of each hashed hidden layer fire for a row, by the layer.

    A network that learnt with few of them expects no more when it predicts.
    """
    pairs = zip(config.model.hidden, active_neurons(config), strict=False)
    return {layer: active for layer, (width, active) in enumerate(pairs) if active < width}


def first_codes(config: WorldConfig, *, device: str = "cpu") -> Tensors:
    """Return what checkpoints keep of the hash tables, before the first step.

    For each hashed layer `NAME.codes`, (L, width) int16 that hold the bits of uint16, and
    `NAME.offset`, (inputs + EXTRA,) float32; see `HashedLayer`.
    """
    widths = (config.features.dimension, *config.model.hidden, config.partition.buckets)
    tensors: Tensors = {}
    for layer, ((inputs, width), active) in enumerate(
        zip(pairwise(widths), active_neurons(config), strict=True)
    ):
        if active < width:
            shape = config.model.lsh.tables, width
            tensors[f"{_name(layer)}.codes"] = torch.zeros(shape, dtype=torch.int16, device=device)
            tensors[f"{_name(layer)}.offset"] = torch.zeros(inputs + EXTRA, device=device)
    return tensors


def hashed_steps(
    config: WorldConfig, parameters: Tensors, state: Tensors, pool: Pool
) -> ActiveSteps:
    """Return what trains the network of a world that hashes.

    Args:
        config: of the world.
        parameters: float32 on the CPU.
        state: the optimiser's, and `first_codes` or what became of them.
        pool: threads.
    """
    layers = {}
    for layer, active in enumerate(active_neurons(config)):
        name = _name(layer)
        if f"{name}.codes" in state:
            neurons = _neurons(name, parameters, state)
            assert active < neurons.width
            codes = state[f"{name}.codes"].numpy().view(np.uint16)
            seed = derive_seed(config.seed, "lsh", layer)
            offset = state[f"{name}.offset"].numpy()
            layers[layer] = HashedLayer(neurons, config.model.lsh, seed, codes, offset, pool)
    return ActiveSteps(
        parameters,
        state,
        loss=config.model.loss,
        relu=config.model.activation == "relu",
        kept=kept_neurons(config),
        wanted=active_neurons(config),
        chooser=HashChooser(layers, config.model.lsh, config.seed),
        pool=pool,
    )


def step_bytes(config: WorldConfig) -> int:
    """Return the bytes that steps take beside parameters and state: tables and active neurons."""
    widths = (*config.model.hidden, config.partition.buckets)
    hashing, total = config.model.lsh, 0
    for width, active in zip(widths, active_neurons(config), strict=True):
        # Ids, odds, activations, their gradients, and the places by neuron.
        total += config.training.batch_size * active * (4 * 4 + 8)
        if active < width:
            total += hashing.tables * table_bytes(width, hashing.bits_for(width))
    return total


def check_codes(config: WorldConfig, state: Tensors) -> None:
    """Check the codes of a checkpoint.

    Raises:
        StorageError: if some are too long.
    """
    for name, tensor in state.items():
        if name.endswith(".codes"):
            bits = config.model.lsh.bits_for(tensor.shape[1])
            most = int(tensor.numpy().view(np.uint16).max(initial=0))
            if most >> bits:
                raise StorageError(
                    f"{name}: expected hash codes of {bits} bits, found {most};"
                    " the checkpoint was altered: remove it"
                )


def _name(layer: int) -> str:
    return "input" if layer == 0 else f"layer.{layer - 1}"


def _neurons(name: str, parameters: Tensors, state: Tensors) -> Neurons:
    weight, bias = parameters[f"{name}.weight"].numpy(), parameters[f"{name}.bias"].numpy()
    if name == "input":
        return InputNeurons(weight, bias, state["input.weight.square"].numpy())
    return RowNeurons(weight, bias)
