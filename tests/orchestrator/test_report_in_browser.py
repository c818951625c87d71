"""Reports, looked at in Chromium: charts that are there, and readable on a desk and a telephone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report import write
from orchestrator.run import Run
from tests.browser import MISSING, Browser, Page, chromium, color, contrast, luminance
from tests.orchestrator.builders import begun
from tests.orchestrator.reported import HOSTILE, eventful, measure

pytestmark = pytest.mark.skipif(chromium() is None, reason=MISSING)

NAME = HOSTILE.replace("/", "")
CHARTS = {
    "chart-loss",
    "chart-accuracy",
    "chart-timeline",
    "chart-throughput",
    "chart-rates",
    "chart-loads",
    "chart-metric-p-1",
    "chart-metric-r-10",
}
CAUSES = "done running stopped preemption error out-of-memory hung data config cut-off".split()
WINDOWS = [(width, dark) for width in (1280, 400) for dark in (False, True)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("reported")
    made = eventful(folder, f"run={folder / NAME}")
    measure(made, "log", "mean")
    # Something to tell of what could not be read.
    made.storage.append(made.paths.metrics(0, "01-aa"), HOSTILE.encode(), ".jsonl")
    return made


@pytest.fixture(scope="module")
def report(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write(run.uri, str(tmp_path_factory.mktemp("page") / "report.html")))


def open_all(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


def charts(page: Page) -> dict[str, dict[str, Any]]:
    """Return what is drawn of each chart, by its name."""
    found: list[dict[str, Any]] = page.evaluate(
        """[...document.querySelectorAll('figure.chart')].map(figure => {
            const drawing = figure.querySelector('.area svg').getBoundingClientRect();
            const marks = [...figure.querySelectorAll('.area svg path:not(.grid):not(.tick)')];
            const boxes = marks.map(mark => mark.getBBox());
            const plot = figure.querySelector('.plot');
            return {
                id: figure.id, width: drawing.width, height: drawing.height, marks: marks.length,
                spread: Math.max(...boxes.map(box => Math.max(box.width, box.height))),
                role: plot.getAttribute('role'), told: plot.getAttribute('aria-label'),
            };
        })"""
    )
    return {chart["id"]: chart for chart in found}


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
def test_all_charts_are_there_and_nothing_is_wrong(
    browser: Browser, report: Path, width: int, dark: bool
) -> None:
    page = browser.open(report, width=width, dark=dark)
    open_all(page)
    found = charts(page)
    assert set(found) == CHARTS
    for chart in found.values():
        assert chart["width"] > 250 and chart["height"] >= 150, chart
        assert chart["marks"] and chart["spread"] > 0, chart
        assert chart["role"] == "img" and len(chart["told"]) > 20, chart
    assert page.complaints == []
    assert page.requests == [report.as_uri()]
    assert page.evaluate("document.title") == f"{NAME} · manyworlds"
    assert page.evaluate("document.querySelectorAll('script, img, b').length") == 0


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window(browser: Browser, report: Path, width: int) -> None:
    page = browser.open(report, width=width)
    open_all(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    outside = page.evaluate(
        """[...document.querySelectorAll('main *')].filter(one =>
            !one.closest('.wide, pre') && one.getBoundingClientRect().right > innerWidth + 1
        ).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


@pytest.mark.parametrize("width", [1280, 400])
def test_words_are_large_enough_and_ticks_apart(browser: Browser, report: Path, width: int) -> None:
    page = browser.open(report, width=width)
    open_all(page)
    smallest = page.evaluate(
        """Math.min(...[...document.querySelectorAll('main *')]
            .filter(one => [...one.childNodes].some(node => node.nodeType == 3 && node.data.trim()))
            .map(one => parseFloat(getComputedStyle(one).fontSize)))"""
    )
    assert smallest >= 9
    overlaps = page.evaluate(
        """[...document.querySelectorAll('.plot .x')].flatMap(axis => {
            const boxes = [...axis.children].filter(one => one.offsetWidth)
                .map(one => one.getBoundingClientRect()).sort((a, b) => a.left - b.left);
            return boxes.slice(1).filter((box, i) => box.left < boxes[i].right);
        }).length"""
    )
    assert overlaps == 0


def test_contrast_is_enough_in_the_dark_and_in_the_light(browser: Browser, report: Path) -> None:
    pages = []
    for dark in (False, True):
        page = browser.open(report, dark=dark)
        ground = color(page, "body", "backgroundColor")
        pages.append(ground)
        for selector in ("body", ".state", ".unit", ".y span", ".legend li", "th", "summary", "dt"):
            assert contrast(color(page, selector), ground) >= 4.5, (selector, dark)
        for cause in CAUSES:
            script = (
                "(() => { const one = document.createElement('span');"
                f" one.className = 'swatch c-{cause}'; document.body.append(one);"
                " return getComputedStyle(one).backgroundColor; })()"
            )
            assert contrast(page.evaluate(script), ground) >= 3, (cause, dark)
        assert contrast(color(page, "path.median", "stroke"), ground) >= 3
        assert contrast(color(page, "#chart-throughput .fill", "fill"), ground) >= 3
    light, dark_ground = pages
    assert luminance(light) > 0.8 and luminance(dark_ground) < 0.1


def test_a_run_at_which_nothing_was_tried_yet_is_fine_too(browser: Browser, tmp_path: Path) -> None:
    page = browser.open(Path(write(begun(tmp_path).uri, str(tmp_path / "report.html"))), width=400)
    assert set(charts(page)) == {"chart-loads"}
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
