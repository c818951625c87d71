"""`manyworlds doctor`, which also works where other verbs cannot even be imported."""

from __future__ import annotations

from orchestrator import doctor as examination
from orchestrator.cli.arguments import Arguments
from orchestrator.cli.output import following, show


def doctor(arguments: Arguments) -> int:
    """Look at this machine; 2 where nothing can be trained on it."""
    broken = False
    for check in examination.checks(arguments.words[0] if arguments.words else "."):
        show([check.line()])
        broken = broken or check.level == "broken"
    show([""])
    show(following([["doctor"] if broken else ["train", "--help"]]))
    return 2 if broken else 0
