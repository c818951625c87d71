"""Documented objects of installed packages: qualified name -> docstrings."""

from __future__ import annotations

import importlib
import inspect
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from types import ModuleType

from examples.api_search.cython_source import read_cython
from examples.api_search.names import PublicNames
from examples.api_search.python_source import Module, read_python

Texts = dict[str, list[str]]

PACKAGES = ("numpy", "torch", "pyarrow", "ray")
# fmt: off
SKIPPED_FOLDERS = frozenset({
    "test", "tests", "site-packages", "dist-packages", "__pycache__", "thirdparty",
    "thirdparty_files", "_vendor", "vendored", "idlelib", "lib2to3", "turtledemo", "pydoc_data",
    "ensurepip", "_internal", "include", "src", "generated", "templates", "_bundled"
})
SKIPPED_MODULES = frozenset({
    "antigravity", "this", "conftest", "setup", "__main__", "__phello__"
})

# Modules of the standard library that hold compiled objects and do nothing when imported.
COMPILED_STDLIB = (
    "array", "asyncio", "atexit", "binascii", "builtins", "bz2", "cmath", "codecs",
    "collections", "contextvars", "csv", "ctypes", "curses", "datetime", "decimal", "errno",
    "faulthandler", "fcntl", "functools", "gc", "grp", "hashlib", "hmac", "io", "itertools",
    "json", "lzma", "marshal", "math", "mmap", "multiprocessing", "operator", "os", "pickle",
    "posix", "pwd", "pyexpat", "queue", "random", "re", "readline", "resource", "select",
    "signal", "socket", "sqlite3", "ssl", "statistics", "string", "struct", "symtable", "sys",
    "syslog", "termios", "threading", "time", "tracemalloc", "types", "typing", "unicodedata",
    "warnings", "weakref", "xml.etree.ElementTree", "zlib", "zoneinfo"
)
# fmt: on
# Python twins of compiled modules: known to everybody by the name of the latter.
TWINS = {"_pydecimal": "decimal", "_pydatetime": "datetime", "_pyio": "io"}
COMPILED_THIRD_PARTY = ("numpy", "numpy.linalg", "numpy.random", "numpy.strings", "pyarrow.compute")
COMPILED = COMPILED_STDLIB + COMPILED_THIRD_PARTY


@dataclass(frozen=True, slots=True)
class Source:
    """A package (or the standard library, whose `package` is "") and the folder that holds it."""

    package: str
    folder: Path


def installed() -> list[Source]:
    """The standard library and those of numpy, torch, pyarrow and ray that are installed."""
    found = [Source("", Path(sysconfig.get_paths()["stdlib"]))]
    for package in PACKAGES:
        spec = util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            found.append(Source(package, Path(next(iter(spec.submodule_search_locations)))))
    return found


def read(
    sources: Iterable[Source],
    *,
    compiled: Iterable[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> Texts:
    """Docstrings by public qualified name, from files first and then from compiled modules.

    Args:
        sources: Packages, read as text: nothing in them is imported.
        compiled: Modules that are imported, because their documentation is in
            no file. An object already found in a file is left alone.
        progress: Gets one line about every source.
    """
    texts: Texts = {}
    for source in sources:
        before = len(texts)
        modules = list(read_source(source))
        _collect(modules, texts)
        label = source.package or "standard library"
        progress(f"{label}: {len(modules):,} files, {len(texts) - before:,} documented objects")
    before = len(texts)
    for name in compiled:
        _add_compiled(name, texts)
    progress(f"compiled modules: {len(texts) - before:,} documented objects")
    return texts


def read_source(source: Source) -> Iterator[Module]:
    """The modules of a package that document anything or re-export, in the order of their paths."""
    for path in _files(source.folder):
        relative = path.relative_to(source.folder).with_suffix("")
        parts = [source.package] if source.package else []
        parts.extend(relative.parts)
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        if path.suffix == ".pyx":
            yield read_cython(path, name)
            continue
        module = read_python(path.read_bytes(), name, is_package=is_package)
        if module is not None and name:
            yield module


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            if suffix in (".py", ".pyx") and not _is_test(stem):
                yield Path(root, name)


def _is_test(stem: str) -> bool:
    tests = stem.startswith("test_") or stem.endswith(("_test", "_tests")) or "test_util" in stem
    return tests or stem in SKIPPED_MODULES


def _collect(modules: list[Module], texts: Texts) -> None:
    public = PublicNames(modules)
    for module in modules:
        for qualified, text in module.texts:
            _add(texts, public.of(module.name, qualified), text)
        for name, text in module.attached:
            _add(texts, name, text)


def _add(texts: Texts, name: str, text: str) -> None:
    """Adds a text; what a constructor says is said of its class."""
    owner, _, last = name.rpartition(".")
    if last in ("__init__", "__new__", "__cinit__"):
        name = owner
    top, dot, rest = name.partition(".")
    name = TWINS.get(top, top) + dot + rest
    if text.strip() and last.strip("_"):
        texts.setdefault(name, []).append(text)


def _add_compiled(name: str, texts: Texts) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError:
        return
    for full, text in list(_members(module, name)):
        if full.removeprefix("builtins.") not in texts:
            _add(texts, full.removeprefix("builtins."), text)


def _members(module: ModuleType, name: str) -> Iterator[tuple[str, str]]:
    """Functions and classes of compiled code that the module offers, and the classes' members."""
    for member in sorted(vars(module)):
        value = vars(module)[member]
        # sys and threading keep the originals of the hooks that a program may replace.
        original = vars(module).get(f"__{member}__")
        value = original if callable(original) else value
        if member.startswith("_") or inspect.ismodule(value) or not callable(value):
            continue
        if inspect.isclass(value):
            yield from _class(value, f"{name}.{member}", name)
        elif not inspect.isfunction(value) or name == "pyarrow.compute":
            yield f"{name}.{member}", _own_doc(value)


def _class(value: type, full: str, module: str) -> Iterator[tuple[str, str]]:
    """A class of compiled code and its own members; a class written in Python is in a file."""
    home = value.__module__.lstrip("_")
    in_python = any(inspect.isfunction(member) for member in vars(value).values())
    if in_python or not (home == module or module.startswith(home.split(".")[0])):
        return
    own = vars(value).get("__doc__")
    yield full, own if isinstance(own, str) else ""
    for member in sorted(vars(value)):
        if not member.startswith("_"):
            yield f"{full}.{member}", _own_doc(vars(value)[member])


def _own_doc(value: object) -> str:
    text = getattr(value, "__doc__", None)
    return text if isinstance(text, str) else ""
