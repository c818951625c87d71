"""Choices of machines by their labels."""

from __future__ import annotations

import pytest

from orchestrator.labels import problem_of, selector_of, takes

LABELS = {"ray.io/market-type": "spot", "zone": "b"}


@pytest.mark.parametrize(
    ("choice", "taken"),
    [
        ("ray.io/market-type=spot", True),
        ("ray.io/market-type=on-demand", False),
        ("ray.io/market-type=!on-demand", True),
        ("ray.io/market-type=!spot", False),
        ("zone=in(a,b)", True),
        ("zone=in(a,c)", False),
        ("zone=!in(a,c)", True),
        ("zone=!in(a,b)", False),
        ("ray.io/market-type=spot  zone=b", True),
        ("ray.io/market-type=spot zone=a", False),
        ("absent=a", False),
        ("absent=!a", True),
    ],
)
def test_a_choice_takes_the_machines_that_fulfil_all_of_it(choice: str, taken: bool) -> None:
    assert problem_of(choice) == ""
    assert takes(selector_of(choice), LABELS) is taken


@pytest.mark.parametrize(
    "choice", ["", " ", "spot", "a=", "=b", "a=in()", "a=in(b", "a==b", "a=!b a=!c"]
)
def test_what_is_no_choice_is_told(choice: str) -> None:
    assert f"found {choice!r}" in problem_of(choice)
