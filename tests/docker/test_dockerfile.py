"""The Dockerfile: its stages, what it copies, and that nothing in it floats."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from orchestrator.executors import cluster, serve
from tests.docker.files import (
    DOCKER,
    ROOT,
    Instruction,
    image_environment,
    instructions,
    normal,
    pins,
)
from tests.orchestrator.command import manyworlds

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("batch", "jobs", "serve")
# What Torch 2.13.0 with CUDA requires on Linux, and what that requires.
CUDA = {
    "cuda-bindings",
    "cuda-pathfinder",
    "cuda-toolkit",
    "nvidia-cublas",
    "nvidia-cuda-cupti",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
    "nvidia-cudnn-cu13",
    "nvidia-cufft",
    "nvidia-cufile",
    "nvidia-curand",
    "nvidia-cusolver",
    "nvidia-cusparse",
    "nvidia-cusparselt-cu13",
    "nvidia-nccl-cu13",
    "nvidia-nvjitlink",
    "nvidia-nvshmem-cu13",
    "nvidia-nvtx",
}


def of(word: str, stage: str | None = None) -> list[Instruction]:
    return [
        found
        for found in instructions()
        if found.word == word and (stage is None or found.stage == stage)
    ]


def let_through(path: str) -> bool:
    """Return whether Docker sends a path of the checkout: the last line that matches decides."""
    sent = True
    for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parts = [path, *map(str, Path(path).parents)]
        if line and line[0] != "#" and any(fnmatch.fnmatch(part, pattern) for part in parts):
            sent = line.startswith("!")
    return sent


def sources() -> set[str]:
    """Return what the Dockerfile takes from the checkout."""
    copied = [shlex.split(found.text)[:-1] for found in of("COPY") if "--from=" not in found.text]
    mounts = [part for found in of("RUN") for part in re.findall(r"--mount=(\S+)", found.text)]
    bound = [mount for mount in mounts if "from=" not in mount]
    return {name for names in copied for name in names} | {
        str(found[1]) for mount in bound if (found := re.search(r"source=([^,]+)", mount))
    }


def code(stage: str) -> str:
    """Return the Python of the one `python -c` of a stage."""
    (text,) = [found.text for found in of("RUN", stage) if found.text.startswith("python -c")]
    return shlex.split(text)[2]


def required() -> list[Requirement]:
    extras = [line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]


def test_what_is_copied_exists_and_is_let_through() -> None:
    found = sources()
    assert {"constraints.txt", "orchestrator", "pyproject.toml", "workers"} <= found
    assert [name for name in sorted(found) if not (ROOT / name).exists()] == []
    assert [name for name in sorted(found) if not let_through(name)] == []
    assert not let_through("tests/docker/files.py")
    assert not let_through("workers/__pycache__/config.pyc")
    assert let_through("workers/storage/files.py")


def test_stages_are_named_and_stand_on_one_pinned_image() -> None:
    named = re.compile(r"(\S+) AS ([a-z]+)")
    stages: list[str] = []
    for found in of("FROM"):
        match = named.fullmatch(found.text)
        assert match, found.text
        base, stage = match.groups()
        assert base in stages or base == "python:${PYTHON}-slim-bookworm"
        stages.append(stage)
    assert {"cpu", "cuda"} <= set(stages)
    (python,) = [found.text for found in of("ARG") if found.text.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.1[123]", python)


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_nodes_run_as_a_numbered_user_who_is_not_root(stage: str) -> None:
    users = [found.text for found in of("USER") if found.stage in ("node", stage)]
    assert users[-1] == "1000"


def test_every_install_is_constrained_or_brings_nothing_along() -> None:
    installs = [found.text for found in of("RUN") if "pip install" in found.text]
    assert len(installs) == 4
    for text in installs:
        assert "--constraint" in text or "--no-deps /wheels/*.whl" in text, text


def test_constraints_pin_all_that_the_image_installs() -> None:
    pinned = pins()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = required()
    while todo:
        asked = todo.pop()
        if (key := (normal(asked.name), frozenset(asked.extras))) in seen:
            continue
        seen.add(key)
        assert key[0] in pinned, f"constraints.txt lacks {asked.name}"
        for line in importlib.metadata.requires(asked.name) or []:
            inner = Requirement(line)
            extras = ("", *asked.extras)
            if not inner.marker or any(inner.marker.evaluate({"extra": e}) for e in extras):
                todo.append(inner)
    assert {"fastapi", "ray", "torch", "uvicorn"} <= {name for name, _ in seen}


def test_constraints_pin_what_only_the_build_with_cuda_brings() -> None:
    # Written down, as the build for CPUs does not say it: a new Torch asks for another look.
    found = {name for name in pins() if name.startswith(("cuda-", "nvidia-"))}
    assert (pins()["torch"], found) == ("2.13.0", CUDA)


def test_the_image_installs_what_the_package_and_its_extras_require() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", code("requirements")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.splitlines()) == sorted(
        line
        for lines in (
            PROJECT["dependencies"],
            *(PROJECT["optional-dependencies"][extra] for extra in EXTRAS),
        )
        for line in lines
    )


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_each_target_refuses_the_other_build_of_torch(stage: str) -> None:
    check = compile(code(stage), stage, "exec")
    if (torch.version.cuda is not None) == (stage == "cuda"):
        exec(check)
    else:
        with pytest.raises(SystemExit, match="TORCH_INDEX"):
            exec(check)


def test_the_image_starts_with_the_help() -> None:
    (found,) = of("CMD")
    assert found.text == '["manyworlds", "--help"]'
    with pytest.raises(SystemExit) as ended:
        manyworlds(*json.loads(found.text)[1:])
    assert ended.value.code == 0
    assert of("ENTRYPOINT") == []


def test_nodes_have_the_environment_that_this_package_gives_to_clusters_of_its_own() -> None:
    environment = image_environment()
    assert (cluster._QUIET | serve._ENVIRONMENT).items() <= environment.items()
    assert environment["HOME"].startswith("/home/")
