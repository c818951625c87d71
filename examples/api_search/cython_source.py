"""Docstrings of Cython files (`.pyx` with the `.pxi` files that they include)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from examples.api_search.python_source import Module

HEADER = re.compile(
    r"(?P<indent>[ ]*)(?:(?P<kind>cdef[ ]+class|class|property|async[ ]+def|def|cpdef)[ ]+)"
    r"(?P<rest>.*)"
)
OPENING = re.compile(r"\s*[rRuU]?(?P<quotes>\"\"\"|''')")
INCLUDE = re.compile(r"include\s+[\"'](?P<path>[^\"']+)[\"']")


def read_cython(path: Path, name: str) -> Module:
    """What a `.pyx` file documents, with the texts of the files that it includes."""
    module = Module(name, is_package=False, compiled=True)
    _read_into(module, path)
    return module


def _read_into(module: Module, path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for qualified, text in scan(lines):
        module.texts.append((qualified, text))
        module.defines.add(qualified.partition(".")[0])
    for line in lines:
        found = INCLUDE.match(line)
        if found and (path.parent / found["path"]).is_file():
            _read_into(module, path.parent / found["path"])


def scan(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yields (qualified name, docstring) of classes, functions and methods, in their order."""
    owners: list[tuple[int, str]] = []
    at = 0
    while at < len(lines):
        found = HEADER.fullmatch(lines[at])
        name = _defined_name(found["kind"], found["rest"]) if found else ""
        if not found or not name:
            at += 1
            continue
        indent = len(found["indent"])
        owners = [owner for owner in owners if owner[0] < indent]
        owners.append((indent, name))
        at = _end_of_header(lines, at)
        text, at = _docstring(lines, at)
        if text and len(owners) == 1 + indent // 4:
            yield ".".join(owner[1] for owner in owners), text


def _defined_name(kind: str, rest: str) -> str:
    """The last word before the bracket or colon; `cpdef` may name a type and `inline` first."""
    before = re.split(r"[(:\[]", rest, maxsplit=1)[0].split()
    if not before or (kind != "cpdef" and len(before) > 1):
        return ""
    return before[-1].lstrip("*")


def _end_of_header(lines: list[str], at: int) -> int:
    """Index of the line after the one whose colon closes the header."""
    depth = 0
    for number in range(at, min(at + 60, len(lines))):
        code = lines[number].split("#", 1)[0].rstrip()
        depth += sum(code.count(c) for c in "([{") - sum(code.count(c) for c in ")]}")
        if depth <= 0 and code.endswith(":"):
            return number + 1
    return at + 1


def _docstring(lines: list[str], at: int) -> tuple[str, int]:
    while at < len(lines) and not lines[at].strip():
        at += 1
    opening = OPENING.match(lines[at]) if at < len(lines) else None
    if opening is None:
        return "", at
    rest = "\n".join([lines[at][opening.end() :], *lines[at + 1 :]][:400])
    text, closed, _ = rest.partition(opening["quotes"])
    return (text, at + text.count("\n") + 1) if closed else ("", at + 1)
