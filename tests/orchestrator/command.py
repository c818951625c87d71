"""The command line, run in this process."""

from __future__ import annotations

import contextlib
import io
import shlex
from dataclasses import dataclass

from orchestrator.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def next_commands(self) -> list[list[str]]:
        """The words of the commands that close the output."""
        _, _, closing = self.out.partition("next:\n")
        return [shlex.split(text)[1:] for text in closing.splitlines()]


def manyworlds(*words: str) -> Ended:
    """Run `manyworlds` with these words."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return Ended(code, out.getvalue(), err.getvalue())
