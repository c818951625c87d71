"""Files cut part by part, beside a plain reference that reads each from its beginning."""

from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.prepare import Piece
from orchestrator.prepare import cutting as module
from orchestrator.prepare.cutting import cut, first_line, look_through


def plainly_cut(text: bytes, step: int, *, quoted: bool) -> list[tuple[int, int]]:
    """Return pieces: a cut is the first row's end that is found in each `step` bytes."""
    cuts, found = {0, len(text)}, {0}
    if not text:
        return []
    state = "field begins"
    for position, byte in enumerate(text):
        sign = chr(byte)
        if sign == '"' and quoted and state == "in quotes":
            state = "quote in quotes"
        elif sign == '"' and quoted and state in ("field begins", "quote in quotes"):
            state = "in quotes"
        elif state != "in quotes":
            state = "field begins" if sign in ",\r\n" else "in a field"
            cell = position // step
            if sign == "\n" and cell not in found:
                found.add(cell)
                cuts.add(position + 1)
    return list(itertools.pairwise(sorted(cuts)))


@given(
    text=st.lists(st.sampled_from([b"a", b"bc", b'"', b'""', b"\n", b"\r\n", b","])).map(b"".join),
    step=st.integers(1, 20),
    steps=st.integers(1, 4),
    block=st.integers(1, 9),
    quoted=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_parts_tell_together_where_a_file_is_cut(
    text: bytes, step: int, steps: int, block: int, quoted: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LOOK", block)
        patch.setattr(module, "_BEGIN", block)
        looks = []
        for start in range(0, len(text), step * steps):
            part = Piece("a", start, min(start + step * steps, len(text)))
            looks.append(look_through(io.BytesIO(text), part, step, quoted=quoted))
    pieces = cut("a", len(text), looks)
    assert [(piece.start, piece.stop) for piece in pieces] == plainly_cut(text, step, quoted=quoted)
    assert b"".join(text[piece.start : piece.stop] for piece in pieces) == text


@pytest.mark.parametrize("text", [b"", b"no end", b"one\ntwo", b"a" * 200_000 + b"\nb"])
def test_the_first_line_is_as_long_as_it_is(text: bytes) -> None:
    assert first_line(io.BytesIO(text)) == text.partition(b"\n")[0] + b"\n" * (b"\n" in text)
