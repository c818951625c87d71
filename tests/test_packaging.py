"""The wheel, installed where no checkout is in reach: does it hold all that it needs?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CLASSES = 64


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this test's import paths and return what it prints."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    flags = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *flags, ROOT, cwd=folder)
    (built,) = folder.glob("manyworlds-*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment with the wheel and its dependencies.

    The dependencies are those of this environment, found through a `.pth` file: Python
    does not read the `.pth` files of a folder that it found so, hence an editable install
    of the checkout stays out of sight.
    """
    home = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    flags = ("--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *flags, wheel, cwd=home.parent)
    show_site = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = Path(run(python, "-c", show_site, cwd=home.parent).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python.parent


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write 512 rows: eight for every class, each with a word of its own."""
    labels = [row % CLASSES for row in range(512)]
    text = [f"thing{label} number{row // CLASSES}" for row, label in enumerate(labels)]
    pq.write_table(pa.table({"text": text, "labels": labels}), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_the_wheel_holds_the_packages_the_presets_and_the_pages(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    presets = {f"orchestrator/conf/{path.name}" for path in (ROOT / "conf").glob("*.yaml")}
    code = {
        path.relative_to(ROOT).as_posix()
        for package in ("orchestrator", "workers")
        for path in (ROOT / package).rglob("*.py")
    }
    pages = {f"orchestrator/report/{name}" for name in ("page.html", "style.css")}
    pages |= {f"orchestrator/serving/page/page.{kind}" for kind in ("html", "css", "js")}
    metadata = {name for name in inside if name.startswith(f"manyworlds-{VERSION}.dist-info/")}
    assert "orchestrator/conf/default.yaml" in presets
    assert inside - metadata == code | presets | pages
    assert f"manyworlds-{VERSION}.dist-info/licenses/LICENSE" in metadata


def test_the_packages_come_from_the_wheel(clean: Path, tmp_path: Path) -> None:
    shown = run(
        clean / "python",
        "-c",
        "import importlib.metadata, orchestrator, workers\n"
        "print(orchestrator.__file__, workers.__file__)\n"
        "print(importlib.metadata.version('manyworlds'))",
        cwd=tmp_path,
    ).split()
    assert [str(clean.parent) in path for path in shown[:2]] == [True, True]
    assert shown[2] == VERSION


def test_doctor_runs_from_anywhere(clean: Path, tmp_path: Path) -> None:
    shown = run(clean / "manyworlds", "doctor", cwd=tmp_path).split()
    assert {"numpy", "pyarrow", "ray", "torch"} <= set(shown)


def test_a_tiny_training_runs_from_anywhere(clean: Path, tmp_path: Path, rows: Path) -> None:
    settings = (
        f"run={tmp_path / 'run'}",
        f"data.train={rows}",
        f"data.classes={CLASSES}",
        "data.text=[text]",
        "partition.buckets=16",
        "features.dimension=512",
        "model.hidden=[8]",
        "training.epochs=1",
        "training.batch_size=64",
        "worlds=2",
        "cluster.gpus_per_world=0",
    )
    run(clean / "manyworlds", "train", *settings, cwd=tmp_path)
    ask = (
        "import json, sys; from orchestrator import Ensemble\n"
        "answers = Ensemble.load(sys.argv[1]).predict(['thing7 number3'], k=3)\n"
        "print(json.dumps(answers.ids.tolist()))"
    )
    (answer,) = json.loads(run(clean / "python", "-c", ask, tmp_path / "run", cwd=tmp_path))
    assert len(set(answer)) == 3
    assert set(answer) <= set(range(CLASSES))
