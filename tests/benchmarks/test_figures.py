from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmarks.figures import CLASSES, IMAGES, figures, shared_once

DRAWN = figures()
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_figure_is_what_code_and_results_make_of_it(name: str) -> None:
    drawn = (IMAGES / name).read_text()
    assert drawn == DRAWN[name], "run: make figures"
    assert figures()[name] == drawn


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_figure_has_a_title_a_ground_of_its_own_and_nothing_outside(name: str) -> None:
    root = ElementTree.fromstring(DRAWN[name])
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert root.findtext(f"{SVG}title")
    ground = root.find(f"{SVG}rect")
    assert ground is not None
    assert (float(ground.attrib["width"]), float(ground.attrib["height"])) == (width, height)
    for text in root.iter(f"{SVG}text"):
        # A letter of 13 pixels is nowhere wider than 7.8 on average.
        wide = 7.8 * len(text.text or "")
        reach = {"start": (0.0, wide), "middle": (wide / 2, wide / 2), "end": (wide, 0.0)}
        before, behind = reach[text.attrib["text-anchor"]]
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        assert x - before >= 0, text.text
        assert x + behind <= width, text.text
        assert 10 <= y <= height, text.text


def test_the_marked_classes_share_one_bucket_of_three() -> None:
    one, other = shared_once()
    title = ElementTree.fromstring(DRAWN["partitions.svg"]).findtext(f"{SVG}title") or ""
    assert f"{CLASSES[one]} and {CLASSES[other]} share a bucket in world 0" in title


def test_the_curves_end_where_the_tables_do() -> None:
    drawn = DRAWN["accuracy.svg"]
    assert len(re.findall("<polyline", drawn)) == 6
    # R@10 of tldr with 16 worlds, 67.8 % of 70, in a chart from 34 to 308.
    last = re.findall(r'points="[^"]*?([\d.]+),([\d.]+)"', drawn)[0]
    assert abs(float(last[1]) - (308 - 274 * 67.8 / 70)) < 0.3
