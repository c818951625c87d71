"""The pages of docs/, and what their commands do when they run.

Every command has a kind (`kind_of`); one that has none is an error. Commands on a run in a folder
run as they stand, but in this process and without Ray (`ALONE`); what needs more than this machine
is read by the program's own parsers (`ELSEWHERE`, `read`).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import config
from orchestrator.cli import arguments
from orchestrator.cli.asking import BATCH_KEYS, KEYS
from orchestrator.prepare import PrepareConfig
from orchestrator.schema import Layer, build, from_overrides
from orchestrator.serving.settings import ServingConfig
from tests.docker.commands import read_by_ray
from tests.test_house_rules import PROJECT, ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LANGUAGES = {"sh", "python", "json", "text", "yaml", "console"}
"""Of blocks; `console` is what a command printed that takes minutes and is not run here."""
ALONE = {
    "train": ["cluster.address=none"],
    "resume": ["cluster.address=none"],
    "grow": ["cluster.address=none"],
    "prepare": ["cluster=none"],
    "serve": ["cluster=none"],
    "plan": ["--calibrate", "0"],
}
"""What keeps a verb in this process, and short."""
ELSEWHERE = {
    "s3://": "there is no such bucket",
    "--submit": "there is no such cluster",
}
"""What is in a command that this machine cannot run, and why."""
_CLUSTERS = ("docker", "kubectl", "ray up", "ray exec", "ray down", "ray get-auth-token")
"""Commands that docker/README.md lists as checked, or as not run."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(\s*([^)\s]+)\s*\)|<img [^>]*src=\"([^\"]+)\"")
_VARIES = re.compile(r"-?\d[\d.,:e+-]*|\b[0-9a-f]{16}\b|\s+")


@dataclass(frozen=True)
class Step:
    """A command of a page, or a block of another language."""

    language: str
    text: str


def blocks(path: Path) -> list[tuple[str, str]]:
    """Return language and text of every fenced block."""
    return _FENCE.findall(path.read_text())


def steps(path: Path) -> list[Step]:
    """Return what a reader does, and is shown, from top to bottom."""
    found = []
    for language, text in blocks(path):
        if language == "sh":
            lines = text.replace("\\\n", " ").splitlines()
            found += [Step("sh", line) for line in lines if split(line)]
        else:
            found.append(Step(language, text))
    return found


def links(path: Path) -> Iterator[str]:
    """Yield where a page points to inside the repository."""
    for written, image in _LINK.findall(_FENCE.sub("", path.read_text())):
        if "://" not in (target := written or image):
            yield target


def split(command: str) -> list[str]:
    """Return the words of a command."""
    return shlex.split(command, comments=True)


def kind_of(command: str) -> str:
    """Return how a command is checked: run, read, asked, listed, started, set or installed.

    Raises:
        AssertionError: nobody said how.
    """
    words = split(command)
    if words[0] == "manyworlds":
        return "read" if any(mark in command for mark in ELSEWHERE) else "run"
    if words[0] == "curl":
        return "asked"
    if any(command.startswith(f"{program} ") for program in _CLUSTERS):
        return "listed"
    if words[:2] == ["ray", "start"]:
        return "started"
    if words[0] == "export":
        return "set"
    if words[:2] == ["pip", "install"]:
        return "installed"
    raise AssertionError(f"{command}: expected a kind of command that the tests check, found none")


def check(command: str) -> None:
    """Check a command that is not run.

    Raises:
        AssertionError, ConfigError, SystemExit, click.UsageError: it cannot be right.
    """
    words, kind = split(command), kind_of(command)
    if kind in ("run", "read"):
        read(words[1:])
    elif kind == "listed":
        listed = [
            line for _, text in blocks(ROOT / "docker/README.md") for line in text.split("\n")
        ]
        assert command in listed, f"{command}: expected one of docker/README.md"
    elif kind == "started":
        read_by_ray(words)
    elif kind == "set":
        assert all(re.fullmatch(r"[A-Z_]+=.*", word) for word in assigned(command)), command
    elif kind == "installed":
        # Of the checkout: the project of this name on PyPI is another one.
        extras = re.fullmatch(r"\.\[([\w,]+)\]", words[2])
        assert extras, command
        assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def read(words: list[str]) -> None:
    """Read a command line of manyworlds as the program would, without doing anything."""
    found = arguments.parse(words)
    settings = [word for word in found.words if "=" in word]
    others = [word for word in found.words if "=" not in word]
    if found.verb in ("train", "plan"):
        assert len(others) <= 1, words
        given = {word.partition("=")[0] for word in settings}
        needed = {"run": "a", "data.train": "b", "data.classes": "100000000", "data.text": "[c]"}
        rest = [f"{key}={value}" for key, value in needed.items() if key not in given]
        preset = others[0] if others and not others[0].endswith(".yaml") else None
        config.load(preset, [*settings, *rest])
    elif found.verb in ("resume", "grow"):
        config.load(None, ["run=a", "data.train=b", "data.classes=100000000", *settings,
                           "data.text=[c]"])  # fmt: skip
    elif found.verb in ("prepare", "serve"):
        kind = PrepareConfig if found.verb == "prepare" else ServingConfig
        told = [word for word in settings if not word.startswith("cluster=")]
        built = build(kind, [Layer("", {}), from_overrides(told)])
        assert not built.problems, built.problems
    else:
        keys = {"evaluate": KEYS, "predict": BATCH_KEYS, "report": ("out",)}
        assert {word.partition("=")[0] for word in settings} <= set(keys.get(found.verb, ())), words


def alone(words: list[str]) -> list[str]:
    """Return a command line of manyworlds as it runs here."""
    verb = words[0]
    more = ALONE.get(verb, [])
    if verb == "predict" and any(word.startswith("data=") for word in words):
        more = ["cluster=none"]
    key = more[0].partition("=")[0] if more else ""
    return words if not more or any(word.startswith(key) for word in words) else [*words, *more]


def shape(value: Any) -> Any:
    """Return what kinds of values JSON holds where."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if isinstance(value, int | float) else type(value).__name__


def alike(line: str) -> str:
    """Return a line of output without what differs from machine to machine."""
    return _VARIES.sub("", line.replace("━", "").replace("█", ""))


def same_json(told: str, found: str) -> None:
    """Check that an answer looks as the page says."""
    assert shape(json.loads(told)) == shape(json.loads(found)), found


def same_text(told: str, found: str) -> None:
    """Check that a program printed the lines that the page shows, numbers left out."""
    printed = {alike(line) for line in found.splitlines()}
    for line in told.splitlines():
        assert line.strip() == "…" or alike(line) in printed, f"{line!r} is not in:\n{found}"


def assigned(command: str) -> list[str]:
    """Return the words behind `export`; what $(...) holds is one word's."""
    return re.sub(r"\$\([^)]*\)", "made", command.partition(" ")[2]).split()
