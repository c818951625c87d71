"""Labels of machines: which ones a choice such as `ray.io/market-type=spot` takes."""

from __future__ import annotations

import re
from collections.abc import Mapping

_CONDITION = re.compile(r"(?P<key>[\w./-]+)=(?P<value>!?in\([\w.,-]+\)|!?[\w.-]+)")
_VALUE = re.compile(r"(?P<no>!?)(?:in\((?P<many>.*)\)|(?P<one>.*))")


def problem_of(choice: str) -> str:
    """Return what is wrong with a choice of machines, empty for nothing."""
    found = [_CONDITION.fullmatch(word) for word in choice.split()]
    keys = [match["key"] for match in found if match]
    # Ray takes one condition on a label.
    if found and len({*keys}) == len(found):
        return ""
    return (
        "expected choices such as ray.io/market-type=spot, of one label or more, each once, with"
        f" blanks between them and values such as a, !a, in(a,b) and !in(a,b), found {choice!r}"
    )


def selector_of(choice: str) -> dict[str, str]:
    """Return a choice of machines as Ray takes it: conditions on values, by label."""
    return dict(word.split("=", 1) for word in choice.split())


def takes(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether a machine with these labels fulfils all conditions."""
    return all(_holds(condition, labels.get(key)) for key, condition in selector.items())


def _holds(condition: str, value: str | None) -> bool:
    match = _VALUE.fullmatch(condition)
    assert match
    wanted = (match["many"] or match["one"]).split(",")
    return (value in wanted) != bool(match["no"])
