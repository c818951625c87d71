"""The rules of the house that a program can check: who imports what, and how big files get."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("workers", "orchestrator")
LONGEST_FILE = 400
FOR_GPUS = ("gpu_steps.py", "triton_kernels.py")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    return name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), name(path)))


def imported(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports anywhere, in functions too."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: import by the full name"
            found.add(str(node.module))
    return found


def packages(path: Path) -> set[str]:
    return {full.partition(".")[0] for full in imported(path)}


def foreign(path: Path) -> set[str]:
    return packages(path) - sys.stdlib_module_names - set(PACKAGES)


def required() -> set[str]:
    lines: list[str] = PROJECT["project"]["dependencies"]
    return {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines}


def run_without(blocked: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python in which the `blocked` packages do not seem to be installed."""
    guard = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
    command = [sys.executable, "-W", "error", "-c", guard + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_guard_of_these_tests_blocks() -> None:
    ended = run_without(("ray",), "import ray.util")
    assert ended.returncode == 1
    assert "No module named 'ray'" in ended.stderr


@pytest.mark.parametrize("path", sources("workers"), ids=name)
def test_workers_import_only_what_one_world_needs(path: Path) -> None:
    allowed = {"numba", "numpy", "pyarrow", "safetensors", "torch"}
    # Numba is built on llvmlite; Triton comes with Torch's builds for GPUs alone.
    special = {"jit.py": {"llvmlite"}, "triton_kernels.py": {"triton"}}
    assert foreign(path) <= allowed | special.get(path.name, set())
    assert "orchestrator" not in packages(path)


def test_workers_import_without_ray_omegaconf_and_orchestrator() -> None:
    paths = [path for path in sources("workers") if path.name not in FOR_GPUS]
    imports = "\n".join(f"import {module(path)}" for path in paths)
    ended = run_without(("ray", "omegaconf", "orchestrator", "triton"), imports)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("path", sources("orchestrator"), ids=name)
def test_the_orchestrator_imports_only_what_the_project_requires(path: Path) -> None:
    # PyYAML comes with OmegaConf, which cannot do without it; MLflow with an extra.
    extra = {"mlflow"} if name(path) == "orchestrator/observers/mlflow.py" else set()
    if name(path).startswith("orchestrator/serving/"):
        # Of the extra `serve`; FastAPI is built on the first two.
        extra = {"pydantic", "starlette", "fastapi", "prometheus_client", "uvicorn"}
    assert foreign(path) <= required() | {"yaml"} | extra


def test_only_executors_import_ray() -> None:
    users = {name(path) for path in sources("orchestrator") if "ray" in packages(path)}
    assert "orchestrator/executors/ray.py" in users
    assert [user for user in users if not user.startswith("orchestrator/executors/")] == []


@pytest.mark.parametrize(
    "statement", ["import orchestrator.driver", "from orchestrator import Ensemble"]
)
def test_these_need_no_ray(statement: str) -> None:
    ended = run_without(("ray",), statement)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("path", sources(*PACKAGES, "chaos", "benchmarks", "examples"), ids=name)
def test_nothing_that_is_loaded_can_run_code(path: Path) -> None:
    unsafe = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
    assert not packages(path) & unsafe
    text = path.read_text()
    for call in ("torch.load(", "torch.save(", "allow_pickle=True", "yaml.load(", "eval(", "exec("):
        assert not re.search(rf"(?<![\w.]){re.escape(call)}", text), call


def opens_for_writing(call: ast.Call) -> bool:
    if getattr(call.func, "id", "") != "open":
        return False
    modes = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
    return any(set(str(getattr(mode, "value", "w"))) & set("wax+") for mode in modes)


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=name)
def test_only_storage_writes_files(path: Path) -> None:
    if name(path).startswith("workers/storage"):
        return
    found = [node for node in nodes(path) if isinstance(node, ast.Attribute)]
    attributes = {node.attr for node in found}
    calls = {f"{getattr(node.value, 'id', '')}.{node.attr}" for node in found}
    opened = [
        node for node in nodes(path) if isinstance(node, ast.Call) and opens_for_writing(node)
    ]
    assert not attributes & {"open_output_stream", "open_append_stream", "write_text", "touch"}
    assert not calls & {"os.rename", "os.replace", "os.remove", "shutil.rmtree", "shutil.copy"}
    assert [node.lineno for node in opened] == []


@pytest.mark.parametrize("path", sources(*PACKAGES, "chaos"), ids=name)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < LONGEST_FILE


def test_chaos_is_no_part_of_the_tests() -> None:
    assert PROJECT["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]
    assert sources("chaos")


def rank(public: str) -> tuple[int, str]:
    """Order names as ruff does: constants, then classes, then the rest."""
    return (0 if public.isupper() else 1 if public[0].isupper() else 2, public)


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=name)
def test_public_names_are_sorted_and_exist(path: Path) -> None:
    if "__all__" not in path.read_text():
        return
    loaded = importlib.import_module(module(path))
    assert list(loaded.__all__) == sorted(loaded.__all__, key=rank)
    assert [public for public in loaded.__all__ if not hasattr(loaded, public)] == []


def pinned(path: str) -> list[str]:
    lines = (ROOT / path).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("path", ["constraints.txt", "benchmarks/constraints.txt"])
def test_constraints_are_plain_versions(path: str) -> None:
    lines = pinned(path)
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert "torch==2.13.0" in lines
    versions = {line.partition("==")[0].lower().replace("-", "_") for line in lines}
    assert required() <= versions


def test_readme_commands_and_links_exist() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(code(text))))
    verbs = set(re.findall(r"\bmanyworlds ([a-z]+)\b", "\n".join(code(text))))
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert {"demo", "test"} <= commands <= targets
    assert [verb for verb in sorted(verbs) if not is_verb(verb)] == []
    assert [link for link in links if not (ROOT / link).exists()] == []


def is_verb(word: str) -> bool:
    command = [sys.executable, "-m", "orchestrator.cli", word, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def code(markdown: str) -> list[str]:
    """Return the parts of a page that are set as code, in blocks and in lines."""
    blocks = re.findall(r"```.*?\n(.*?)```", markdown, re.DOTALL)
    return [
        *blocks,
        *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)),
    ]
