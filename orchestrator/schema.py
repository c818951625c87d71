"""Layers of settings onto a typed schema, with every problem found at once.

OmegaConf knows the types (structured configs around the dataclasses) and the
interpolations; this module feeds it one setting at a time, so that a problem
in one hides no other, and turns what it refuses into sentences.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from workers.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """Settings from one place."""

    source: str
    """Named in messages: a file; empty: the command line."""
    values: Mapping[str, Any]
    """Nested mappings; a key may be dotted."""
    problems: tuple[str, ...] = ()
    """What was wrong already before the schema came in."""


@dataclass(frozen=True)
class Built(Generic[T]):
    """An object made of the settings that fitted, and the problems of those that did not."""

    value: T | None
    """None where an interpolation leads nowhere."""
    problems: list[str] = field(default_factory=list)
    suspects: set[str] = field(default_factory=set)
    """Keys that a refused setting was meant for, as far as one can tell."""


def plain(value: Any) -> Any:
    """Return `value` with tuples as lists, at every depth."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted name and the type of every setting of a dataclass instance."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(type(value)).items():
        item = getattr(value, name)
        inner = leaves(item, f"{prefix}{name}.") if is_dataclass(item) else {prefix + name: hint}
        found.update(inner)
    return found


def values(value: Any) -> dict[str, Any]:
    """Return the dotted name and the plain value of every setting of a dataclass instance."""
    found: dict[str, Any] = {}
    for name in leaves(value):
        item = value
        for part in name.split("."):
            item = getattr(item, part)
        found[name] = plain(item)
    return found


def dotted(
    values: Mapping[str, Any], whole: Container[str] = frozenset()
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf of nested mappings.

    Args:
        values: nested; a key may be dotted already.
        whole: dotted keys of which a mapping is the value.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and key not in whole:
            yield from dotted({f"{key}.{name}": item for name, item in value.items()}, whole)
        else:
            yield str(key), value


def from_overrides(overrides: Sequence[str]) -> Layer:
    """Return the layer that `key=value` words make; values are YAML."""
    values: dict[str, Any] = {}
    problems = []
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            problems.append(f"{word}: expected key=value, for example training.epochs=3")
            continue
        try:
            values[key.strip()] = _parsed(text)
        except (yaml.YAMLError, OmegaConfBaseException):
            problems.append(
                f"{key}: expected a YAML value, found {text!r};"
                " quote what has brackets, braces or colons"
            )
    return Layer("", values, tuple(problems))


def to_override(key: str, value: Any) -> str:
    """Return the `key=value` word that `from_overrides` reads as this plain value."""
    bare = [str(value)] if isinstance(value, (str, float)) else []
    # OmegaConf takes more for numbers than YAML does, such as 1e3: those need quotes.
    words = [f"{key}={text}" for text in (*bare, _to_yaml(value), _to_yaml(value, '"'))]
    return next(word for word in words if _reads_as(word, key, value))


def made(kind: type[T], layers: Sequence[Layer]) -> T:
    """Return a `kind` made of its defaults and the layers, later over earlier.

    Raises:
        ConfigError: with one sentence for each setting that was refused.
    """
    built = build(kind, layers)
    if built.problems or built.value is None:
        raise ConfigError("\n".join(built.problems))
    return built.value


def build(kind: type[T], layers: Sequence[Layer]) -> Built[T]:
    """Return a `kind` made of its defaults and the layers, later over earlier."""
    known = leaves(kind())
    config = OmegaConf.structured(kind)
    problems: list[str] = []
    suspects: set[str] = set()
    for layer in layers:
        problems.extend(layer.problems)
        pairs = list(dotted(layer.values, known))
        merged = _merged(config, pairs, known)
        if merged is not None:
            config = merged
            continue
        config, refused = _merged_singly(config, pairs, known)
        where = f" (in {layer.source})" if layer.source else ""
        problems.extend(sentence + where for sentence in refused.values())
        suspects.update(key if key in known else nearest(key, known) or key for key in refused)
    value, unresolved = _resolved(config, kind)
    return Built(value, [*problems, *unresolved], suspects)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like `word`, or None where none is like it.

    A word without a dot is also held against the last part of dotted choices.
    """
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.7)
    if close:
        return close[0]
    tails = {choice.rpartition(".")[2]: choice for choice in reversed(choices)}
    close = difflib.get_close_matches(word.rpartition(".")[2], tails, n=1, cutoff=0.7)
    return tails[close[0]] if close else None


def _merged_singly(
    config: DictConfig, pairs: Sequence[tuple[str, Any]], known: Mapping[str, Any]
) -> tuple[DictConfig, dict[str, str]]:
    """Return `config` with the settings that fit, and a sentence for each that does not."""
    refused = {}
    for key, value in pairs:
        merged = _merged(config, [(key, value)], known)
        if merged is None:
            refused[key] = _refusal(key, value, known)
        else:
            config = merged
    return config, refused


def _refusal(key: str, value: Any, known: Mapping[str, Any]) -> str:
    if key in known:
        return f"{key}: expected {describe(known[key])}, found {_shown(value)}"
    if any(name.startswith(f"{key}.") for name in known):
        return f"{key}: expected settings such as {_example(key, known)}, found {_shown(value)}"
    suggestion = nearest(key, known)
    return f"{key}: unknown key" + (f"; did you mean {suggestion}?" if suggestion else "")


def _merged(
    config: DictConfig, pairs: Sequence[tuple[str, Any]], known: Mapping[str, Any]
) -> DictConfig | None:
    """Return `config` with all these settings, or None where at least one does not fit."""
    if any(key not in known for key, _ in pairs):
        return None
    # OmegaConf takes groups as members of a list, and fails on a group in the place of one.
    if any(_holds_groups(value) for _, value in pairs):
        return None
    nested: dict[str, Any] = {}
    try:
        for key, value in pairs:
            *groups, name = key.split(".")
            node = nested
            for group in groups:
                node = node.setdefault(group, {})
            node[name] = _fitted(value, known[key])
        merged = OmegaConf.merge(config, OmegaConf.create(nested))
    except (OmegaConfBaseException, OverflowError):
        return None
    assert isinstance(merged, DictConfig)
    return merged


def _resolved(config: DictConfig, kind: type[T]) -> tuple[T | None, list[str]]:
    """Return the object that `config` stands for, or what is wrong with its ${...}."""
    try:
        value = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        key, found = error.full_key or "settings", str(error).splitlines()[0]
        return None, [f"{key}: expected a ${{...}} that has a value, found: {found}"]
    assert isinstance(value, kind)
    return value, []


def _holds_groups(value: Any) -> bool:
    lists = isinstance(value, (list, tuple))
    return isinstance(value, Mapping) or (
        lists and any(isinstance(item, (Mapping, list, tuple)) for item in value)
    )


def _fitted(value: Any, hint: Any) -> Any:
    """Return `value`, wrapped or widened where the schema's type leaves no doubt."""
    is_text_or_number = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if get_origin(hint) is tuple and is_text_or_number and not _is_interpolation(value):
        return [value]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_number and float in get_args(hint) else value


def describe(hint: Any) -> str:
    """Return the words for a type of the schema."""
    arguments = get_args(hint)
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(str(item) for item in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(item) for item in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list such as [{_samples(arguments[0])}]"
    if origin is tuple:
        return f"a list of {len(arguments)}, such as [{_samples(arguments[0])}]"
    names = {int: "a whole number", float: "a number", str: "text", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _samples(kind: Any) -> str:
    return "3, 5" if kind is int else "title, query"


def _example(group: str, known: Mapping[str, Any]) -> str:
    return next(name for name in known if name.startswith(f"{group}.")) + "=..."


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return repr(value) if isinstance(value, str) else str(plain(value))


def _parsed(text: str) -> Any:
    """Return a YAML value, interpolations left as they are."""
    values = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    assert isinstance(values, dict)
    return values["value"]


def _to_yaml(value: Any, quotes: str | None = None) -> str:
    text: str = yaml.safe_dump(
        value,
        default_flow_style=True,
        default_style=quotes,
        width=float("inf"),
        allow_unicode=True,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _reads_as(word: str, key: str, value: Any) -> bool:
    layer = from_overrides([word])
    found = layer.values.get(key)
    return not layer.problems and type(found) is type(value) and found == value


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value
