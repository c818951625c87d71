"""The ready-made settings in `conf/`, and those in a user's own YAML files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from workers.errors import ConfigError


def folder() -> Path:
    """Return the folder of presets: inside the installed package, or of the checkout."""
    package = Path(str(resources.files("orchestrator")))
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def machines() -> Path:
    """Return the file of machine types in `conf/`."""
    return folder() / "machines.yaml"


def names() -> list[str]:
    """Return the names of all presets in `conf/`, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml") if path != machines())


def read(preset: str) -> dict[str, Any]:
    """Return the settings of a preset, nested and unchecked.

    Args:
        preset: a name from `conf/`, or the path of a YAML file.

    Raises:
        ConfigError: no such preset or file, or it is not a YAML mapping.
    """
    return read_yaml(_path(preset))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a YAML file maps, nested and unchecked.

    Raises:
        ConfigError: it cannot be read, or is not a YAML mapping.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: expected a YAML file of settings, found: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _path(preset: str) -> Path:
    if preset in names():
        return folder() / f"{preset}.yaml"
    if preset.endswith((".yaml", ".yml")) or "/" in preset:
        if Path(preset).is_file():
            return Path(preset)
        raise ConfigError(f"{preset}: expected a YAML file of settings, found no such file")
    close = difflib.get_close_matches(preset, names(), n=1)
    hint = f"; did you mean {close[0]}?" if close else ";"
    raise ConfigError(
        f"{preset}: unknown preset{hint} expected one of {', '.join(names())},"
        " or the path of a YAML file"
    )
