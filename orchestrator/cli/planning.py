"""`manyworlds plan`: what a run would take, or what more worlds would bring one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from orchestrator import api, config, evaluations, presets
from orchestrator.cli.arguments import Arguments
from orchestrator.cli.output import draw, following, show
from orchestrator.cli.planned import growth, measured_worlds, told
from orchestrator.config import RunConfig
from orchestrator.inputs import open_inputs
from orchestrator.plan import (
    Data,
    Plan,
    gains,
    read_machines,
    world_hours,
)
from orchestrator.plan import plan as make
from orchestrator.schema import Layer, dotted, from_overrides
from workers.errors import ConfigError
from workers.storage import Storage

_CHOSEN = ("worlds", "partition.buckets")
_INPUTS = {"data.text", "data.indices", "data.dense"}
_TOLD = "told"
"""Stands for training data that is not there yet."""
_FIRST = "runs/first"
"""The run, where none is named."""


def plan(arguments: Arguments) -> int:
    """Say what a run would take; of one that is there, what more worlds would bring."""
    if not arguments.words:
        raise arguments.wrong("a run, or a preset and key=value settings, found nothing")
    presets_or_runs = [word for word in arguments.words if "=" not in word]
    if len(presets_or_runs) > 1:
        raise arguments.wrong(f"one preset or run, found {', '.join(presets_or_runs)}")
    first = presets_or_runs[0] if presets_or_runs else None
    if first and first not in presets.names() and not first.endswith((".yaml", ".yml")):
        return _of_run(first, arguments)
    return _of_settings(first, arguments)


def _of_settings(preset: str | None, arguments: Arguments) -> int:
    words = [word for word in arguments.words if "=" in word]
    keys = _keys(preset, words)
    if not arguments.rows and "data.train" not in keys:
        raise arguments.wrong(
            "data.train=ROWS, or --rows N where there are none yet, found neither"
        )
    wanted = config.load(preset, [*_placeholders(keys, arguments), *words])
    given = [key for key in _CHOSEN if key in keys]
    if arguments.rows:
        data, seconds = Data.told(arguments.rows, arguments.features), 0.0
    else:
        data, seconds = Data.read(wanted, open_inputs(wanted)), arguments.calibrate
    found = make(
        wanted,
        data,
        read_machines(arguments.machines),
        given=given,
        most_confusion=arguments.confusion,
        most_deviation=arguments.deviation,
        seconds=seconds,
        target_hours=arguments.target_hours,
    )
    if arguments.json:
        show([json.dumps(_plain(found), indent=2)])
        return 0
    draw(*told(found, data, given=given, target_hours=arguments.target_hours))
    show(following([_training(preset, words, found.config, keys)]))
    return 0


def _of_run(run: str, arguments: Arguments) -> int:
    if beside := _beside_run(arguments):
        raise ConfigError(
            f"{run}: expected a run alone, found {', '.join(beside)} beside it; what is left out"
            " there says how a new run is planned"
        )
    found = api.status(run)
    kept = evaluations.kept(Storage(run))
    newest = kept[-1] if kept else None
    hours = world_hours(found.states)
    continued = gains(newest) if newest else []
    if arguments.json:
        curves = [asdict(gain) for gain in continued]
        show([json.dumps({"run": run, "world_hours": hours, "gains": curves}, indent=2)])
        return 0
    draw(*growth(run, newest, continued, hours, found.config.worlds))
    if newest is None or measured_worlds(newest) < found.config.worlds:
        held_out = newest.data if newest else found.config.data.validation or "HELD_OUT"
        show(following([["evaluate", run, f"data={held_out}"]]))
        return 0
    show(following([["grow", run, f"worlds={2 * found.config.worlds}"]]))
    return 0


def _beside_run(arguments: Arguments) -> list[str]:
    """Return the words that say nothing of a run that is there."""
    settings = [word for word in arguments.words if "=" in word]
    options = {"--rows": arguments.rows, "--target-hours": arguments.target_hours}
    return settings + [name for name, value in options.items() if value]


def _placeholders(keys: set[str], arguments: Arguments) -> list[str]:
    """Return settings for what the user need not say: the plan chooses it, or does without."""
    values = {"run": _FIRST, "partition.buckets": "2"}
    if arguments.rows:
        values |= {"data.train": _TOLD}
        if not keys & _INPUTS:
            values |= {"data.indices": _TOLD}
    return [f"{key}={value}" for key, value in values.items() if key not in keys]


def _keys(preset: str | None, words: Sequence[str]) -> set[str]:
    """Return the dotted keys that the user gave a value."""
    layers = [from_overrides(words)]
    if preset and preset != "default":
        layers.append(Layer(preset, presets.read(preset)))
    return {key for layer in layers for key, _ in dotted(layer.values)}


def _training(
    preset: str | None, words: Sequence[str], planned: RunConfig, keys: set[str]
) -> list[str]:
    """Return the command that trains what was planned."""
    rest: dict[str, Any] = {
        "run": _FIRST,
        "data.train": "ROWS",
        "worlds": planned.worlds,
        "partition.buckets": planned.partition.buckets,
    }
    if not keys & _INPUTS:
        rest["data.text"] = "[COLUMN]"
    places = [f"{key}={value}" for key, value in rest.items() if key not in keys]
    return ["train", *([preset] if preset else []), *places, *words]


def _plain(found: Plan) -> dict[str, Any]:
    values = {**asdict(found), "config": found.config.to_dict()}
    for name, size in (("size", found.size), ("whole", found.whole)):
        memory = size.memory
        values[name] |= {
            "ensemble_bytes": size.ensemble_bytes,
            "device_bytes": memory.device,
            "host_bytes": memory.host,
        }
    return values
