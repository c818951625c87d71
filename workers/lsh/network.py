"""The hashed layers of a world's network: which they are, what they keep, what trains them."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from workers.config import WorldConfig
from workers.errors import StorageError
from workers.hashing import derive_seed
from workers.kernels.steps import Shapes, Tensors
from workers.lsh.chooser import HashChooser
from workers.lsh.codes import EXTRA
from workers.lsh.layer import HashedLayer, Neurons
from workers.lsh.shared import CANDIDATES, SharedSteps
from workers.lsh.steps import PARTS, ActiveSteps
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
    shared, found = config.model.lsh.shared, []
    for layer, (inputs, width) in enumerate(pairwise(widths)):
        name = "input" if layer == 0 else f"layer.{layer - 1}"
        wide = width >= narrowest and not (shared and layer < len(config.model.hidden))
        active = max(1, round(share * width)) if share < 1 and wide else width
        found.append(LayerSize(name, inputs, width, active))
    return found


def is_hashed(config: WorldConfig) -> bool:
    """Return whether any layer is."""
    return any(layer.hashed for layer in layers_of(config))


def has_own_sets(config: WorldConfig) -> bool:
    """Return whether a row has active neurons of its own: products are then taken in float32."""
    return is_hashed(config) and not config.model.lsh.shared


def kept_neurons(config: WorldConfig) -> dict[int, int]:
    """Return how many neurons of each hashed hidden layer fire for a row, by the layer.

    A network that learnt with few of them expects no more when it predicts.
    """
    hidden = enumerate(layers_of(config)[:-1])
    return {number: layer.active for number, layer in hidden if layer.hashed}


def first_codes(config: WorldConfig, *, device: str = "cpu") -> Tensors:
    """Return what checkpoints keep of the hash tables, before the first step.

    For each hashed layer `NAME.codes`, (L, width) int16 that hold the bits of uint16,
    `NAME.offset`, (inputs + EXTRA,) float32, and `NAME.centre`, (inputs,); see `HashedLayer`.
    And as (width,) int32 `NAME.touches`, in how many steps each neuron was active, or where a batch
    shares them `NAME.last`, in which one the last time.
    """
    tensors: Tensors = {}
    counted = "last" if config.model.lsh.shared else "touches"
    for name, inputs, width, active in layers_of(config):
        if active < width:
            shape = config.model.lsh.tables, width
            tensors[f"{name}.codes"] = torch.zeros(shape, dtype=torch.int16, device=device)
            tensors[f"{name}.offset"] = torch.zeros(inputs + EXTRA, device=device)
            tensors[f"{name}.centre"] = torch.zeros(inputs, device=device)
            tensors[f"{name}.{counted}"] = torch.zeros(width, dtype=torch.int32, device=device)
    return tensors


def asking_shapes(config: WorldConfig) -> Shapes:
    """Return the names and shapes of what a model holds beside weights to be asked by tables.

    `input.seen`, (d,), above 0 for features that training met, if the input layer is hashed; and
    for each hashed layer `NAME.centre` of `first_codes`.
    """
    if not by_tables(config):
        return {}
    layers = [layer for layer in layers_of(config) if layer.hashed]
    shapes: Shapes = {f"{layer.name}.centre": (layer.inputs,) for layer in layers}
    if layers[0].name == "input":
        shapes["input.seen"] = (config.features.dimension,)
    return shapes


def asking_tensors(config: WorldConfig, state: Tensors) -> Tensors:
    """Return what `asking_shapes` names, from the state of a world that was trained."""
    known = state | {"input.seen": (state["input.weight.square"] > 0).float()}
    return {name: known[name] for name in asking_shapes(config)}


def by_tables(config: WorldConfig) -> bool:
    """Return whether prediction computes the neurons that hash tables name, and no others."""
    return is_hashed(config) and config.model.lsh.predict == "tables"


def table_steps(config: WorldConfig, model: Tensors, pool: Pool) -> ActiveSteps:
    """Return what predicts by tables: those that a model's neurons have with their last weights.

    Args:
        config: of the world.
        model: weights and `asking_shapes`, float32 on the CPU.
        pool: threads.
    """
    asking = asking_shapes(config)
    parameters = {name: tensor for name, tensor in model.items() if name not in asking}
    state = first_codes(config) | {name: model[name] for name in asking}
    if "input.seen" in model:
        state["input.weight.square"] = model["input.seen"]
    steps = hashed_steps(config, parameters, state, bf16=False, pool=pool)
    assert isinstance(steps, ActiveSteps)
    steps.hash_all()
    return steps


def hash_chooser(
    config: WorldConfig, parameters: Tensors, state: Tensors, pool: Pool
) -> HashChooser:
    """Return what chooses the active neurons of a world's hashed layers.

    Args:
        config: of the world.
        parameters: float32 on the CPU.
        state: the optimiser's, and `first_codes` or what became of them.
        pool: threads.
    """
    layers = {}
    for number, layer in enumerate(layers_of(config)):
        if layer.hashed:
            neurons = _neurons(layer.name, parameters, state)
            codes = state[f"{layer.name}.codes"].numpy().view(np.uint16)
            seed = derive_seed(config.seed, "lsh", number)
            common = state[f"{layer.name}.offset"].numpy(), state[f"{layer.name}.centre"].numpy()
            layers[number] = HashedLayer(neurons, config.model.lsh, seed, codes, *common, pool)
    return HashChooser(layers, config.model.lsh, config.seed)


def hashed_steps(
    config: WorldConfig, parameters: Tensors, state: Tensors, *, bf16: bool, pool: Pool
) -> ActiveSteps | SharedSteps:
    """Return what trains the network of a world that hashes.

    Args:
        config: as for `hash_chooser`.
        parameters: likewise.
        state: likewise.
        bf16: whether products are taken in bf16, where the rows of a batch share their buckets.
        pool: likewise.
    """
    sizes = layers_of(config)
    loss, relu = config.model.loss, config.model.activation == "relu"
    chooser = hash_chooser(config, parameters, state, pool)
    if config.model.lsh.shared:
        return SharedSteps(
            parameters,
            state,
            loss=loss,
            relu=relu,
            bf16=bf16,
            wanted=sizes[-1].active,
            chooser=chooser,
            pool=pool,
        )
    return ActiveSteps(
        parameters,
        state,
        loss=loss,
        relu=relu,
        kept=kept_neurons(config),
        wanted=[layer.active for layer in sizes],
        candidates=config.model.lsh.candidates,
        chooser=chooser,
        pool=pool,
        by_tables=by_tables(config),
    )


def step_bytes(config: WorldConfig, *, bf16: bool) -> int:
    """Return the bytes that steps take beside parameters and state: tables and active neurons."""
    batch, layers, hashing = config.training.batch_size, layers_of(config), config.model.lsh
    if hashing.shared:
        number = 2 if bf16 else 4
        # Activations and gradients, and a copy of what the shared buckets have.
        hidden = 2 * batch * sum(config.model.hidden) * number
        last = layers[-1]
        shared = last.active * (batch * number + last.inputs * (3 * 4 + number))
        # Ids, how likely they are, and room that both have beside them.
        candidates = batch * CANDIDATES * 3 * 4 + 2 * last.width * 4
        return tables_bytes(config) + hidden + shared + candidates
    # Ids, activations, their gradients, and the rows and places by neuron.
    named = (min(layer.width, layer.active * hashing.candidates) for layer in layers)
    active = sum(batch * each * (3 * 4 + 4 + 8) for each in named)
    parts = PARTS * batch * max(layer.active for layer in layers[:-1]) * 4
    return tables_bytes(config) + active + parts


def tables_bytes(config: WorldConfig) -> int:
    """Return the bytes of a network's hash tables."""
    hashing = config.model.lsh
    return sum(
        hashing.tables * table_bytes(layer.width, hashing.bits_for(layer.width))
        for layer in layers_of(config)
        if layer.hashed
    )


def check_hashing(config: WorldConfig, state: Tensors) -> None:
    """Check the codes and counts of a checkpoint.

    Raises:
        StorageError: if codes are too long, or counts below 0.
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
        if name.endswith((".touches", ".last")) and int(tensor.min()) < 0:
            raise StorageError(
                f"{name}: expected counts of steps, found {int(tensor.min())};"
                " the checkpoint was altered: remove it"
            )


def _neurons(name: str, parameters: Tensors, state: Tensors) -> Neurons:
    weight, bias = parameters[f"{name}.weight"].numpy(), parameters[f"{name}.bias"].numpy()
    if name == "input":
        return InputNeurons(weight, bias, state["input.weight.square"].numpy())
    return RowNeurons(weight, bias)
