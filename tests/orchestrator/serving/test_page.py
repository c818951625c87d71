"""The page of the service, used in Chromium as people use it: by keys, by clicks, on a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from orchestrator.serving.settings import ServingConfig
from tests.browser import MISSING, Browser, Page, chromium, color, contrast, luminance
from tests.orchestrator.builders import CLASSES, copied, run_config, trained, write
from tests.orchestrator.serving.running import running

pytestmark = pytest.mark.skipif(chromium() is None, reason=MISSING)

IDLE = "document.querySelector('#columns').getAttribute('aria-busy') === 'false'"
FOCUS = "document.activeElement.id"
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><b>thing</b>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def opened(browser: Browser, url: str, **window: Any) -> Page:
    """Open the page and wait until it has asked what is served."""
    page = browser.open(url, **window)
    page.until(IDLE)
    return page


def shown(page: Page, selector: str) -> bool:
    return bool(page.evaluate(f"document.querySelector('{selector}').checkVisibility()"))


def texts(page: Page, selector: str) -> list[str]:
    found = page.evaluate(
        f"[...document.querySelectorAll('{selector}')].map(one => one.textContent.trim())"
    )
    assert isinstance(found, list)
    return found


def text(page: Page, selector: str) -> str:
    (found,) = texts(page, selector)
    return found


def answers(page: Page) -> list[tuple[str, str]]:
    """Return the names and scores on the page, when all questions are answered."""
    page.until(IDLE)
    return list(zip(texts(page, ".answer .name"), texts(page, ".answer .score"), strict=True))


def posted(client: TestClient, path: str, **body: Any) -> Any:
    return client.post(path, json=body).raise_for_status().json()


def predicted(client: TestClient, query: str, **way: Any) -> list[tuple[str, str]]:
    """Return names and scores as /predict has them, written as the page writes them."""
    ((best),) = posted(client, "/predict", texts=[query], **way)["answers"]
    return [(one["name"], f"{one['score']:.2f}".replace("-", "−")) for one in best]


def nothing_is_wrong(page: Page, address: str) -> None:
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith((address, "data:"))] == []


def test_answers_come_as_one_types(browser: Browser, address: str, client: TestClient) -> None:
    page = opened(browser, address)
    assert page.evaluate(FOCUS) == "query"
    assert texts(page, ".answer") == []
    page.type("thing7 and thing63")
    wanted = predicted(client, "thing7 and thing63")
    assert answers(page) == wanted
    assert len(wanted) == 10
    widths = page.evaluate(
        "[...document.querySelectorAll('.answer .fill')].map(one => parseFloat(one.style.width))"
    )
    assert widths[0] == 100 and widths == sorted(widths, reverse=True) and widths[-1] < 100
    page.press("Backspace", times=len("thing7 and thing63"))
    assert answers(page) == []
    nothing_is_wrong(page, address)


def test_enter_asks_at_once_and_late_answers_are_ignored(
    browser: Browser, address: str, client: TestClient
) -> None:
    page = opened(browser, address)
    # Answers to thing1 wait until they are let go, even though nobody wants them any more.
    page.evaluate(
        """(() => {
            const real = window.fetch;
            window.held = [];
            window.fetch = async (url, { signal, ...options }) => {
                const answer = await real(url, options);
                if (options.body?.includes('"thing1"')) await new Promise(go => held.push(go));
                return answer;
            };
        })()"""
    )
    page.type("thing1")
    page.press("Enter")
    page.until("held.length > 0")
    page.type("2")
    wanted = predicted(client, "thing12")
    assert wanted != predicted(client, "thing1")
    page.until(f"document.querySelector('.answer .score')?.textContent === '{wanted[0][1]}'")
    page.evaluate("held.forEach(go => go())")
    assert answers(page) == wanted
    nothing_is_wrong(page, address)


def test_a_click_shows_how_the_worlds_voted(
    browser: Browser, address: str, client: TestClient
) -> None:
    page = opened(browser, address)
    page.type("thing9")
    second = posted(client, "/predict", texts=["thing9"])["answers"][0][1]
    page.until(IDLE)
    page.click("#answer-1")
    page.until(IDLE)
    said = posted(client, "/explain", text="thing9", class_id=second["id"])
    assert text(page, "#subject") == second["name"]
    assert "“thing9”" in text(page, "#occasion")
    votes = said["votes"]
    assert texts(page, ".vote .world") == ["world 0", "world 1", "world 2"]
    assert texts(page, ".vote .bucket") == [f"bucket {vote['bucket']}" for vote in votes]
    shares = [share.replace("\xa0%", "") for share in texts(page, ".vote .probability")]
    assert shares == [f"{100 * vote['probability']:.1f}" for vote in votes]
    ends = {1: "1st", 2: "2nd", 3: "3rd"}
    places = [ends.get(vote["rank"], f"{vote['rank']}th") + " of 16" for vote in votes]
    assert texts(page, ".vote .place") == places
    assert texts(page, ".vote .sharing") == [f"{vote['sharing']} classes:" for vote in votes]
    assert texts(page, ".vote .own") == [second["name"]] * 3
    neighbours = [one["name"] for vote in votes for one in vote["neighbours"][:3]]
    assert texts(page, ".vote .member:not(.own)") == neighbours
    # All bars are drawn on one scale.
    page.until("document.getAnimations().length === 0")
    widths = page.evaluate(
        "[...document.querySelectorAll('.vote .fill')].map(one => one.offsetWidth)"
    )
    scale = page.evaluate("document.querySelector('.vote .bar').offsetWidth")
    end = float(text(page, "#most").removesuffix("%")) / 100
    for width, vote in zip(widths, votes, strict=True):
        assert width == pytest.approx(max(2, scale * vote["probability"] / end), abs=1)
    far = page.evaluate(
        "[...document.querySelectorAll('.vote')].map(one => one.classList.contains('far'))"
    )
    assert far == [vote["rank"] > 10 for vote in votes]
    score = f"{said['class']['score']:.2f}".replace("-", "−")
    assert f"Score {score}" in text(page, "#total")
    assert "log" in text(page, "#caption")
    page.click("#close")
    assert not shown(page, "#explanation")
    nothing_is_wrong(page, address)


def test_the_slider_and_the_combiner_change_answers_and_votes(
    browser: Browser, address: str, client: TestClient
) -> None:
    page = opened(browser, f"{address}#q=thing5&class=5")
    assert text(page, "#asked") == "3 of 3"
    before = answers(page)
    page.evaluate("document.querySelector('#worlds').focus()")
    page.press("ArrowLeft")
    assert text(page, "#asked") == "2 of 3"
    assert answers(page) == predicted(client, "thing5", worlds=2) != before
    assert texts(page, ".vote .world") == ["world 0", "world 1"]
    page.press("Tab")
    assert page.evaluate(FOCUS) == "combiner"
    page.type("mi")
    page.until("document.querySelector('#caption').textContent.includes('Combiner min')")
    wanted = posted(client, "/predict", texts=["thing5"], worlds=2, combiner="min")["answers"][0]
    assert [name for name, _ in answers(page)] == [one["name"] for one in wanted]
    assert page.evaluate("location.hash") == "#q=thing5&worlds=2&combiner=min&class=5"
    nothing_is_wrong(page, address)


def test_everything_is_done_by_keys(browser: Browser, address: str) -> None:
    page = opened(browser, address)
    chosen = "document.querySelector('[aria-selected=true] .name')?.textContent"
    described = "document.querySelector('#query').getAttribute('aria-activedescendant')"
    page.type("thing3")
    names = [name for name, _ in answers(page)]
    page.press("ArrowDown", times=2)
    assert page.evaluate(chosen) == names[1]
    assert page.evaluate(described) == "answer-1"
    page.press("Enter")
    page.until(IDLE)
    assert text(page, "#subject") == names[1]
    page.press("ArrowDown")
    page.until(IDLE)
    assert text(page, "#subject") == names[2] == page.evaluate(chosen)
    page.press("Tab")
    assert page.evaluate(FOCUS) == "worlds"
    page.press("ArrowLeft", times=2)
    page.until(IDLE)
    assert texts(page, ".vote .world") == ["world 0"]
    page.press("Escape")
    assert not shown(page, "#explanation")
    assert page.evaluate(FOCUS) == "query"
    page.press("ArrowUp")
    assert page.evaluate(FOCUS) == "query"
    assert shown(page, "#hint")
    nothing_is_wrong(page, address)


def test_keys_that_compose_a_sign_do_nothing_else(browser: Browser, address: str) -> None:
    page = opened(browser, f"{address}#q=thing3&class=3")
    for key in ("ArrowDown", "Enter", "Escape"):
        free = page.evaluate(
            f"""document.querySelector('#query').dispatchEvent(new KeyboardEvent('keydown',
                {{key: '{key}', isComposing: true, bubbles: true, cancelable: true}}))"""
        )
        assert free, key
    assert texts(page, "[aria-selected=true]") == []
    assert shown(page, "#explanation")


def test_addresses_are_sent_and_gone_back_to(browser: Browser, address: str) -> None:
    page = opened(browser, f"{address}#q=thing4&worlds=2")
    first = answers(page)
    assert len(first) == 10
    assert page.evaluate("document.querySelector('#query').value") == "thing4"
    page.type("4")
    second = answers(page)
    assert page.evaluate("location.hash") == "#q=thing44&worlds=2"
    page.press("ArrowDown")
    page.press("Enter")
    page.until(IDLE)
    for step, query, there, found in (
        (-1, "thing44", False, second),
        (-1, "thing4", False, first),
        (2, "thing44", True, second),
    ):
        page.evaluate(f"history.go({step})")
        page.until(f"document.querySelector('#query').value === '{query}' && {IDLE}")
        page.until(
            f"document.querySelector('#explanation').checkVisibility() === {str(there).lower()}"
        )
        assert answers(page) == found
    nothing_is_wrong(page, address)


def test_what_the_service_refuses_is_told_in_its_words(browser: Browser, address: str) -> None:
    page = opened(browser, f"{address}#q=thing4&class=64")
    assert text(page, "#words") == "class_id: expected 0 to 63, found 64"
    page.click("#again")
    assert len(answers(page)) == 10
    assert not shown(page, "#problem")
    assert not shown(page, "#explanation")


def test_a_service_that_is_gone_is_told(browser: Browser, run: Path) -> None:
    with running(ServingConfig(ensemble=str(run))) as address:
        page = opened(browser, address)
    page.type("thing")
    page.until(IDLE)
    assert text(page, "#words") == "No answer from the service."
    assert shown(page, "#again") and not shown(page, "#answers")


def test_a_token_is_asked_for_and_kept_in_the_tab(
    browser: Browser, run: Path, client: TestClient
) -> None:
    config = ServingConfig(ensemble=str(run), token="env:UNUSED")
    with running(config, token="wanted") as address:
        page = opened(browser, address)
        assert page.evaluate(FOCUS) == "token"
        assert not shown(page, "#search") and not shown(page, "#wrong")
        page.type("other")
        page.press("Enter")
        page.type("thing1")
        page.until("document.querySelector('#wrong').checkVisibility()")
        assert page.evaluate(FOCUS) == "token"
        # No header can hold it.
        page.type("wänted€")
        page.press("Enter")
        assert shown(page, "#entrance") and shown(page, "#wrong")
        assert page.evaluate(FOCUS) == "token"
        page.type("wanted")
        page.press("Enter")
        assert answers(page) == predicted(client, "thing1")
        assert not shown(page, "#entrance")
        page.press("ArrowDown")
        page.press("Enter")
        page.until(IDLE)
        assert len(texts(page, ".vote")) == 3
        kept = page.evaluate("[sessionStorage.token, localStorage.length, document.cookie]")
        assert kept == ["wanted", 0, ""]
        assert page.evaluate("document.querySelectorAll('a[href]').length") == 0
        assert "wanted" not in page.evaluate("location.href + document.body.innerHTML")


def test_the_next_ensemble_is_shown(
    browser: Browser, tmp_path: Path, run: Path, nameless: Path
) -> None:
    mine = copied(run, tmp_path / "run", merged=True)
    new = (nameless / "ensembles" / "CURRENT").read_text().strip()
    shutil.copytree(nameless / "ensembles" / new, mine / "ensembles" / new)
    with running(ServingConfig(ensemble=str(mine), refresh_seconds=0.05)) as address:
        page = opened(browser, address)
        old = text(page, "#ensemble")
        page.type("thing1")
        assert len(answers(page)) == 10
        assert old != new and not shown(page, "#swapped")
        (mine / "ensembles" / "CURRENT").write_text(new)
        page.until(f"fetch('about').then(one => one.json()).then(one => one.ensemble === '{new}')")
        # All three worlds were asked, and the new ensemble has two.
        page.type("2")
        names = [name for name, _ in answers(page)]
        assert len(names) == 10 and all(name.startswith("class ") for name in names)
        assert [text(page, "#ensemble"), text(page, "#digest")] == [new, new]
        assert shown(page, "#swapped")
        assert text(page, "#asked") == "2 of 2"
        nothing_is_wrong(page, address)


def test_names_are_never_markup(browser: Browser, tmp_path: Path) -> None:
    ids = list(range(CLASSES))
    table = pa.table({"id": ids, "name": [f"{HOSTILE}{i}" for i in ids]})
    names = write(tmp_path / "names.parquet", table)
    hostile = trained(run_config(tmp_path, f"data.class_names={names}", "worlds=1"))
    with running(ServingConfig(ensemble=str(hostile))) as address:
        page = opened(browser, f"{address}#q={HOSTILE}&class=1")
        assert all(name.startswith(HOSTILE) for name, _ in answers(page))
        assert text(page, "#subject") == f"{HOSTILE}1"
        assert all(one.startswith(HOSTILE) for one in texts(page, ".member"))
        assert page.evaluate("document.querySelectorAll('img, main b').length") == 0
        assert page.evaluate("document.title") == "manyworlds"
        nothing_is_wrong(page, address)


def test_how_rows_are_asked_is_told(browser: Browser, tmp_path: Path) -> None:
    inputs = ["data.text=[]", "data.indices=bought"]
    made = trained(run_config(tmp_path, *inputs, "worlds=1"))
    with running(ServingConfig(ensemble=str(made))) as address:
        page = opened(browser, address)
        assert not shown(page, "#search") and not shown(page, "#columns")
        example = json.loads(text(page, "#example"))
        assert example == {"rows": [{"bought": [17, 4]}], "k": 10}
        assert httpx2.post(f"{address}predict", json=example).status_code == 200
        nothing_is_wrong(page, address)


@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_fits_its_window(browser: Browser, address: str, width: int) -> None:
    page = opened(browser, f"{address}#q=thing1&class=1", width=width, height=740)
    assert shown(page, "#explanation")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    outside = page.evaluate(
        """[...document.querySelectorAll('main *')]
            .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
            .map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    small = page.evaluate(
        """[...document.querySelectorAll('input, select, button, a, .answer')]
            .filter(one => one.checkVisibility() && one.getBoundingClientRect().height < 40)
            .map(one => one.outerHTML.slice(0, 80))"""
    )
    assert small == []


def test_contrast_is_enough_in_the_dark_and_in_the_light(
    browser: Browser, address: str, client: TestClient
) -> None:
    def doubted(one: int) -> bool:
        votes = posted(client, "/explain", text="thing1", class_id=one)["votes"]
        return any(vote["rank"] > 10 for vote in votes)

    wrong = next(filter(doubted, range(CLASSES)))
    grounds = []
    for dark in (False, True):
        page = opened(browser, f"{address}#q=thing1&class={wrong}", dark=dark)
        assert texts(page, ".vote.far") != []
        page.evaluate("document.querySelector('#hint').hidden = false")
        body, soft = (color(page, one, "backgroundColor") for one in ("body", "#explanation"))
        grounds.append(body)
        for selector in ("body", "label", "#count", ".rank", ".score", ".caption", "footer", "a"):
            assert contrast(color(page, selector), body) >= 4.5, (selector, dark)
        for selector in (".axis", ".bucket", ".sharing", ".far .place", "#total", "#method"):
            assert contrast(color(page, selector), soft) >= 4.5, (selector, dark)
        for selector in (".own", ".far .own"):
            fill = color(page, selector, "backgroundColor")
            assert contrast(color(page, selector), fill) >= 4.5, (selector, dark)
        assert contrast(color(page, "#query", "borderTopColor"), body) >= 3, dark
        assert contrast(color(page, ".far .fill", "backgroundColor"), soft) >= 3, dark
    light, dark_ground = grounds
    assert luminance(light) > 0.8 and luminance(dark_ground) < 0.1
