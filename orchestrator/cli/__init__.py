"""The command `manyworlds VERB ...`.

What a verb needs is imported when it runs, so that `manyworlds --help` and a
typo are answered at once.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

from orchestrator.cli.arguments import Arguments, parse
from orchestrator.words import harmless
from workers.errors import ManyworldsError

__all__ = ["main"]

REFUSED, INTERRUPTED = 2, 130
"""Exit codes; 130 is what shells report for Ctrl-C."""

_HOMES = {
    "prepare": "preparing",
    "plan": "planning",
    "train": "training",
    "resume": "training",
    "grow": "training",
    "merge": "training",
    "status": "tending",
    "logs": "tending",
    "stop": "tending",
    "clean": "tending",
    "report": "tending",
    "evaluate": "asking",
    "predict": "asking",
    "serve": "serving",
    "doctor": "examining",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        words: without the program's name; None: those of this process.

    Returns:
        0 if all went as asked, which `manyworlds stop` is too; 1 if worlds failed, or are not done
        at the end of `manyworlds status --watch`; 2 if the command was refused; 130 after Ctrl-C.
    """
    _spell_what_it_can()
    arguments = parse(sys.argv[1:] if words is None else words)
    try:
        home = importlib.import_module(f"orchestrator.cli.{_HOMES[arguments.verb]}")
        return int(getattr(home, arguments.verb)(arguments))
    except ManyworldsError as error:
        print(f"manyworlds {arguments.verb}: {_indented(harmless(str(error)))}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"\n{_after_interrupt(arguments)}", file=sys.stderr)
        return INTERRUPTED


def _spell_what_it_can() -> None:
    """Let output in an encoding without some signs show a `?` for them, and go on."""
    for stream in (sys.stdout, sys.stderr):
        # Others say themselves what they do.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _indented(message: str) -> str:
    lines = message.splitlines() or ["no reason given"]
    return lines[0] if len(lines) == 1 else "\n".join(["", *(f"  {line}" for line in lines)])


def _after_interrupt(arguments: Arguments) -> str:
    command = arguments.carry_on()
    if command is None:
        return f"manyworlds {arguments.verb}: interrupted."
    kept = "Finished worlds and committed checkpoints are"
    if arguments.verb == "prepare":
        kept = "What is written is"
    return f"manyworlds {arguments.verb}: interrupted. {kept} kept; carry on with\n  {command}"
