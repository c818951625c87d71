"""Numbers as people read them, and text as terminals take it."""

from __future__ import annotations

from collections.abc import Iterable

_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\N{REPLACEMENT CHARACTER}")
_HARMLESS = {key: sign for key, sign in _CONTROLS.items() if chr(key) not in "\t\n"}


def duration(seconds: float) -> str:
    """Return seconds in the two largest units that matter, such as `2 h 05 min`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Return bytes in decimal units, such as `1.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(share: float | None) -> str:
    """Return a share as per cent with two digits and no sign, for tables; empty for None."""
    return "" if share is None else f"{100 * share:.2f}"


def listed(numbers: Iterable[int]) -> str:
    """Return numbers in order, runs of three and more as `4-7`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def plural(count: int, noun: str) -> str:
    """Return the count with its noun, such as `1 world` and `2 worlds`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def harmless(text: str) -> str:
    """Return text without signs that could move a terminal's cursor, other than tabs and lines."""
    return text.translate(_HARMLESS)
