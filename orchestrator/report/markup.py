"""HTML that cannot be broken into: what is no `Html` already is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Text that is HTML, and goes into a page as it is."""

    __slots__ = ()


def escaped(value: Any) -> Html:
    """Return `value` as HTML: as it is if it is HTML already, else as text."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(parts: Iterable[Any], between: str = "") -> Html:
    """Return parts as HTML, one after the other."""
    return Html(escaped(between).join(escaped(part) for part in parts))


def tag(name: str, *content: Any, **attributes: Any) -> Html:
    """Return an element.

    Args:
        name: of the element.
        content: what is inside; what is no `Html` is escaped.
        attributes: without `_` at the end, other `_` as `-`; those that are None are left out.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{words}>{joined(content)}</{name}>")


def table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Iterable[int] = ()
) -> Html:
    """Return a table that scrolls inside its own box where it is too wide.

    Args:
        headings: of the columns.
        rows: of cells.
        numbers: the columns that are set flush right.
    """
    right = set(numbers)

    def cells(kind: str, row: Sequence[Any]) -> Html:
        return tag(
            "tr",
            *(tag(kind, cell, class_="n" if i in right else None) for i, cell in enumerate(row)),
        )

    head = tag("thead", cells("th", headings))
    body = tag("tbody", *(cells("td", row) for row in rows))
    return tag("div", tag("table", head, body), class_="wide", tabindex="0")
