"""The pictures of the README: a run while it trains, its report, and the page that answers.

    python -m benchmarks.screenshots

Trains eight worlds of a generated product search on a local Ray cluster, while somebody kills one
of their processes now and then, measures the ensemble, writes its report, and takes the pictures
in Chromium. Writes docs/images/live.png and report.png, its first half. The page is that of the
run of `make demo`, which must be there: page.png. QUICK=1 only shows that it runs.
"""

from __future__ import annotations

import contextlib
import io
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import ray
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from benchmarks.datasets import CACHE
from benchmarks.generated import product_search
from benchmarks.writing import QUICK, ROOT
from chaos.soak import Killer
from orchestrator import api, display, evaluations
from orchestrator.config import load
from orchestrator.ensemble.ensemble import Ensemble
from orchestrator.ensemble.evaluation import evaluate
from orchestrator.executors.cluster import connect
from orchestrator.report import write
from orchestrator.serving import alone
from orchestrator.serving.settings import ServingConfig
from orchestrator.views import WorldView
from tests.browser import Browser

IMAGES = ROOT / "docs" / "images"
WIDTH = 112
"""Columns of the terminal."""
SLOTS = 4
SECONDS = 70.0
"""Between two kills."""
_SHOWN = """[...document.querySelectorAll("h2")]
    .find((heading) => heading.textContent === "Slowest worlds")
    .parentElement.getBoundingClientRect().top"""
"""How much of the report is in its picture."""
DEMO = ROOT / "runs" / "api_search" / "run"
"""The run that answers on the page."""
_QUESTION = {"q": "read a table from a parquet file"}
_EXPLAINED = "document.querySelector('.vote') !== null && !document.getAnimations().length"
_ASKED = "document.querySelector('.answer') !== null"
_THEME = TerminalTheme(
    (22, 27, 34),
    (213, 218, 224),
    [
        (72, 79, 88),
        (255, 123, 114),
        (126, 211, 142),
        (227, 179, 65),
        (108, 182, 255),
        (210, 168, 255),
        (86, 212, 221),
        (213, 218, 224),
    ],
)
_NODE = "node-1"
_PAGE = """<!doctype html><meta charset="utf-8"><style>
html {{ background: {background}; }}
body {{ margin: 18px 22px; width: max-content; }}
pre {{ margin: 0; font: 15px/1.45 "DejaVu Sans Mono", monospace; color: {foreground}; }}
</style><pre>{code}</pre>"""


class Camera:
    """Listens to a run and keeps its worlds at the moment when there is most to see."""

    def __init__(self) -> None:
        self.views: Sequence[WorldView] = ()
        self._most = (-1, -1)

    def listen(self, views: Sequence[WorldView]) -> None:
        """Take in the present state of all worlds."""
        running = [view for view in views if view.state == "running" and view.bucket_accuracy]
        states = {view.state for view in views} | {"tried" for v in views if v.attempts > 1}
        telling = (len(states), len(running))
        if telling >= self._most:
            self.views, self._most = tuple(views), telling


def main() -> None:
    """Train, measure, and take the pictures."""
    if not DEMO.exists():
        raise SystemExit(f"{DEMO}: expected the run of the demo, found none; make demo trains it")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        camera, run = trained(folder)
        report = folder / "report.html"
        write(run, str(report))
        report.write_text(unnamed(report.read_text(), folder))
        images = folder if QUICK else IMAGES
        images.mkdir(parents=True, exist_ok=True)
        terminal = folder / "terminal.html"
        terminal.write_text(drawn(camera.views))
        with Browser(folder) as browser:
            browser.open(terminal, width=10, height=10).screenshot(images / "live.png")
            page = browser.open(report, width=1280, height=900)
            page.screenshot(images / "report.png", height=page.evaluate(_SHOWN))
            with alone.serving(ServingConfig(ensemble=str(DEMO), port=0)) as url:
                page = browser.open(f"{url}/#{urlencode(_QUESTION)}", width=1280, height=900)
                page.until(_ASKED)
                page.press("ArrowDown")
                page.press("Enter")
                page.until(_EXPLAINED)
                page.screenshot(images / "page.png")
        for path in sorted(images.glob("*.png")):
            print(f"{path.name}: {path.stat().st_size:,} bytes")


def unnamed(text: str, folder: Path) -> str:
    """Return a text without the names of this machine and its folders."""
    host = socket.gethostname()
    places = {str(folder): "/runs", str(CACHE): "/data", host: _NODE}
    for name, shown in places.items():
        text = text.replace(name, shown)
    return text


def trained(folder: Path) -> tuple[Camera, str]:
    """Return what was seen of a run, and its folder."""
    rows = 5_000 if QUICK else 120_000
    products = product_search(f"screenshots-{rows}", 20_000, train=rows, test=4_000)
    settings = {
        "run": folder / "product-search",
        "worlds": 8,
        "data.train": products.train,
        "data.validation": products.test,
        "data.validation_rows": 2_000,
        "data.classes": products.classes,
        "data.text": "[query]",
        "partition.buckets": 4096,
        "features.dimension": 65_536,
        "model.hidden": "[128]",
        "training.epochs": 1 if QUICK else 8,
        "runtime.checkpoint_steps": 50,
        "runtime.report_steps": 20,
        "retry.error": 9,
        "retry.backoff_seconds": 1,
        "cluster.address": "local",
        "cluster.cpus_per_world": 1,
    }
    config = load(overrides=[f"{key}={value}" for key, value in settings.items()])
    camera = Camera()
    connect("local", {"num_cpus": SLOTS})
    try:
        with Killer(config.run, SECONDS, 1) as killer:

            def listen(views: Sequence[WorldView]) -> None:
                killer.listen(views)
                camera.listen(views)

            with contextlib.redirect_stdout(io.StringIO()):
                summary = api.train(config, listener=listen)
    finally:
        ray.shutdown()
    if summary.ensemble is None:
        raise SystemExit(summary.error or dict(summary.failed))
    measured = evaluate(
        Ensemble.load(config.run), str(products.test), ks=(1, 10), combiners=("log", "mean")
    )
    evaluations.keep(config.run, measured, str(products.test))
    return camera, config.run


def drawn(views: Sequence[WorldView]) -> str:
    """Return a page that shows worlds as a terminal does."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="standard"
    )
    console.print("[bold green]$[/] manyworlds status product-search --watch\n", highlight=False)
    console.print(display.table([replace(v, node=_NODE if v.node else "") for v in views]))
    return console.export_html(theme=_THEME, code_format=_PAGE, inline_styles=True)


if __name__ == "__main__":
    main()
