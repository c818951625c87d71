"""Public names: the shortest path by which a package re-exports what it defines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from examples.api_search.python_source import Module

WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z0-9]+|\d+")


def is_private(part: str) -> bool:
    """Whether a part of a dotted name starts with an underscore and is no special method."""
    return part.startswith("_") and not (part.startswith("__") and part.endswith("__"))


def words(name: str) -> str:
    """The lower-case words of a name: `torch.nn.BatchNorm1d` gives `torch nn batch norm1d`."""
    return " ".join(WORD.findall(name)).lower()


class PublicNames:
    """Finds for (module, object) the best dotted name among all re-exports.

    The best name has the fewest private parts, then the fewest parts, then the
    fewest characters.
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        """Reads the imports of all modules; those of other packages lead nowhere."""
        self._modules: Mapping[str, Module] = {module.name: module for module in modules}
        self._best: dict[tuple[str, str], str] = {}
        for name in sorted(self._modules):
            self._add_aliases(self._modules[name])

    def of(self, module: str, qualified: str) -> str:
        """The public name of `qualified` (`Class.method`), which `module` defines."""
        if not qualified:
            return module
        top, dot, rest = qualified.partition(".")
        own = f"{module}.{top}"
        best = min(own, self._best.get((module, top), own), key=_cost)
        return best + dot + rest

    def _add_aliases(self, module: Module) -> None:
        for name in sorted(self._bound(module)):
            if is_private(name):
                continue
            home = self._resolve(module.name, name, 12)
            if home is None or home[0] == module.name or not self._is_export(module, name, home[0]):
                continue
            alias = f"{module.name}.{name}"
            self._best[home] = min(alias, self._best.get(home, alias), key=_cost)

    def _is_export(self, module: Module, name: str, home: str) -> bool:
        """Whether an import is a re-export, or only a use."""
        if module.exported is not None and module.is_package:
            return name in module.exported
        if module.is_package or (module.exported is not None and name in module.exported):
            return True
        return self._modules[home].compiled and module.name.count(".") == 1

    def _bound(self, module: Module) -> set[str]:
        names = set(module.imports)
        for origin in module.stars:
            names |= self._starred(origin, 6)
        return names

    def _starred(self, origin: str, depth: int) -> set[str]:
        module = self._modules.get(origin)
        if module is None or depth == 0:
            return set()
        if module.exported is not None:
            return set(module.exported)
        names = {name for name in module.defines | set(module.imports) if not is_private(name)}
        for inner in module.stars:
            names |= self._starred(inner, depth - 1)
        return names

    def _resolve(self, origin: str, name: str, depth: int) -> tuple[str, str] | None:
        module = self._modules.get(origin)
        if module is None or depth == 0:
            return None
        if name in module.defines:
            return origin, name
        if name in module.imports:
            source, original = module.imports[name]
            if source.partition(".")[0] == origin.partition(".")[0]:
                return self._resolve(source, original, depth - 1)
            return None
        for star in module.stars:
            home = self._resolve(star, name, depth - 1)
            if home is not None:
                return home
        return None


def _cost(name: str) -> tuple[int, int, int, str]:
    parts = name.split(".")
    return sum(is_private(part) for part in parts), len(parts), len(name), name
