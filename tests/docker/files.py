"""What is in docker/, as data."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KUBERAY = ("kuberay/rayjob.yaml", "kuberay/raycluster.yaml", "kuberay/rayservice.yaml")
LAUNCHERS = ("launcher/aws.yaml", "launcher/gcp.yaml")
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


class Instruction(NamedTuple):
    """One of the Dockerfile, its lines joined and its comments left out."""

    stage: str
    """The name of its stage; empty before the first."""
    word: str
    text: str


def documents(name: str) -> list[dict[str, Any]]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all((DOCKER / name).read_text()))


def document(name: str) -> dict[str, Any]:
    """Return the last one, which those before it are for."""
    return documents(name)[-1]


def cluster(name: str) -> dict[str, Any]:
    """Return the RayClusterSpec of a KubeRay file."""
    found = document(name)
    inner = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(found["kind"])
    spec: dict[str, Any] = found["spec"][inner] if inner else found["spec"]
    return spec


def job_settings() -> dict[str, Any]:
    """Return the settings that the RayJob trains with."""
    (made,) = [found for found in documents("kuberay/rayjob.yaml") if found["kind"] == "ConfigMap"]
    settings: dict[str, Any] = yaml.safe_load(made["data"]["settings.yaml"])
    return settings


def instructions() -> list[Instruction]:
    """Return the instructions of the Dockerfile."""
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", "")
    found, stage = [], ""
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.split()[-1]
        if word:
            found.append(Instruction(stage, word, rest))
    return found


def image_environment() -> dict[str, str]:
    """Return the variables that the Dockerfile sets, in whatever stage."""
    texts = [found.text for found in instructions() if found.word == "ENV"]
    return dict(pair.split("=", 1) for text in texts for pair in shlex.split(text))


def pins() -> dict[str, str]:
    """Return the versions of constraints.txt by normal name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    """Return a distribution's name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of docker/README.md."""
    text = (DOCKER / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
