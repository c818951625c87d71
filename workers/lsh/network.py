"""The hashed layers of a world's network: which they are, what they keep, what trains them."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

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


class LayerSize(NamedTuple):
    """What a layer of a network is."""

    name: str
    """Of its parameters."""
    inputs: int
    width: int
    active: int
    """Neurons of it that a row computes."""

    @property
    def hashed(self) -> bool:
        """Whether these are not all."""
        return self.active < self.width


def layers_of(config: WorldConfig) -> list[LayerSize]:
    """Return the layers of a world's network, the input layer first, the buckets last."""
    widths = (config.features.dimension, *config.model.hidden, config.partition.buckets)
    share, narrowest = config.model.active, config.model.lsh.narrowest
    found = []
    for layer, (inputs, width) in enumerate(pairwise(widths)):
        name = "input" if layer == 0 else f"layer.{layer - 1}"
        active = max(1, round(share * width)) if share < 1 and width >= narrowest else width
        found.append(LayerSize(name, inputs, width, active))
    return found


def is_hashed(config: WorldConfig) -> bool:
    """Return whether any layer is."""
    return any(layer.hashed for layer in layers_of(config))


def kept_neurons(config: WorldConfig) -> dict[int, int]:
    """Return how many neurons of each hashed hidden layer fire for a row, by the layer.

    A network that learnt with few of them expects no more when it predicts.
    """
    hidden = enumerate(layers_of(config)[:-1])
    return {number: layer.active for number, layer in hidden if layer.hashed}


def first_codes(config: WorldConfig, *, device: str = "cpu") -> Tensors:
    """Return what checkpoints keep of the hash tables, before the first step.

    For each hashed layer `NAME.codes`, (L, width) int16 that hold the bits of uint16, and
    `NAME.offset`, (inputs + EXTRA,) float32; see `HashedLayer`.
    """
    tensors: Tensors = {}
    for name, inputs, width, active in layers_of(config):
        if active < width:
            shape = config.model.lsh.tables, width
            tensors[f"{name}.codes"] = torch.zeros(shape, dtype=torch.int16, device=device)
            tensors[f"{name}.offset"] = torch.zeros(inputs + EXTRA, device=device)
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
    sizes, layers = layers_of(config), {}
    for number, (name, *_) in enumerate(sizes):
        if sizes[number].hashed:
            neurons = _neurons(name, parameters, state)
            codes = state[f"{name}.codes"].numpy().view(np.uint16)
            seed = derive_seed(config.seed, "lsh", number)
            offset = state[f"{name}.offset"].numpy()
            layers[number] = HashedLayer(neurons, config.model.lsh, seed, codes, offset, pool)
    return ActiveSteps(
        parameters,
        state,
        loss=config.model.loss,
        relu=config.model.activation == "relu",
        kept=kept_neurons(config),
        wanted=[layer.active for layer in sizes],
        chooser=HashChooser(layers, config.model.lsh, config.seed),
        pool=pool,
    )


def step_bytes(config: WorldConfig) -> int:
    """Return the bytes that steps take beside parameters and state: tables and active neurons."""
    hashing, total = config.model.lsh, 0
    for layer in layers_of(config):
        # Ids, odds, activations, their gradients, and the places by neuron.
        total += config.training.batch_size * layer.active * (4 * 4 + 8)
        if layer.hashed:
            total += hashing.tables * table_bytes(layer.width, hashing.bits_for(layer.width))
    return total


def check_codes(config: WorldConfig, state: Tensors) -> None:
    """Check the codes of a checkpoint.

    Raises:
        StorageError: if some are too long.
    """
    for name, tensor in state.items():
        if name.endswith(".codes"):
            bits = config.model.lsh.bits_for(tensor.shape[1])
            # As they are taken over, whatever they are given in.
            most = int(tensor.to(torch.int16).numpy().view(np.uint16).max(initial=0))
            if most >> bits:
                raise StorageError(
                    f"{name}: expected hash codes of {bits} bits, found {most};"
                    " the checkpoint was altered: remove it"
                )


def _neurons(name: str, parameters: Tensors, state: Tensors) -> Neurons:
    weight, bias = parameters[f"{name}.weight"].numpy(), parameters[f"{name}.bias"].numpy()
    if name == "input":
        return InputNeurons(weight, bias, state["input.weight.square"].numpy())
    return RowNeurons(weight, bias)
