"""The verbs that look after a run: status, logs, stop, clean, report."""

from __future__ import annotations

import json

from orchestrator import api, display, watching
from orchestrator.cli import reports
from orchestrator.cli.arguments import RUN, Arguments
from orchestrator.cli.output import draw, following, lines_of_terminal, show
from orchestrator.report import write
from workers.errors import ConfigError

OK, NOT_DONE = 0, 1
"""Exit codes."""


def status(arguments: Arguments) -> int:
    """Show who drives a run, its worlds, and with --attempts every attempt, from storage."""
    run = arguments.only(RUN)
    if arguments.watch:
        return _watch(run, arguments)
    if arguments.every is not None:
        raise arguments.wrong("--every with --watch, found it alone")
    found = api.status(run)
    if arguments.json:
        show([json.dumps({"schema": 1, **reports.status(found)}, indent=1)])
        return OK
    show([*reports.driving(found), ""])
    every = [reports.attempts(found)] if arguments.attempts else []
    draw(display.table(found.views, room=lines_of_terminal()), *every)
    show(following(reports.next_of_run(found)))
    return OK


def _watch(run: str, arguments: Arguments) -> int:
    """Show a run until it is over; return 0 if all worlds are done, else 1."""
    if arguments.json or arguments.attempts:
        raise arguments.wrong("--watch alone, found --json or --attempts beside it")
    told: list[str] = []
    try:
        with display.choose() as shown:
            for found in watching.looks(run, every=arguments.every or watching.EVERY):
                if (lines := reports.driving(found)) != told:
                    told = lines
                    show(lines)
                shown.show(found.views)
    except KeyboardInterrupt:
        return OK
    show(["", *following(reports.next_of_run(found))])
    return OK if watching.is_done(found) else NOT_DONE


def logs(arguments: Arguments) -> int:
    """Show the last line of each world's log, or the last lines of one."""
    run = arguments.only(RUN)
    found = api.logs(run, arguments.world, arguments.attempt, lines=arguments.lines)
    show(reports.last_lines(found) if arguments.world is None else reports.log(found[0]))
    more = [["logs", run, "--world", str(log.world)] for log in found if log.attempt]
    other = more[:1] if arguments.world is None else [["logs", run]]
    show(["", *following([*other, ["status", run, "--attempts"]])])
    return 0


def stop(arguments: Arguments) -> int:
    """Ask the driver of a run to stop, and wait until it has left."""
    run = arguments.only(RUN)
    try:
        asked = api.stop(run, wait=not arguments.no_wait, listener=lambda line: show([line]))
    except KeyboardInterrupt:
        show(["", "the driver stays asked: it will stop all the same"])
        raise
    found = api.status(run)
    show([*reports.driving(found), *([] if asked else ["there is nothing to stop"]), ""])
    show(following(reports.next_of_run(found)))
    return 0


def clean(arguments: Arguments) -> int:
    """Remove what a run needs no more, or with --dry-run say what that is."""
    run = arguments.only(RUN)
    items = api.clean(run, dry_run=arguments.dry_run)
    show([*reports.cleaned(items, arguments.dry_run), ""])
    again = arguments.dry_run and bool(items)
    show(following([["clean", run] if again else ["status", run]]))
    return 0


def report(arguments: Arguments) -> int:
    """Write what there is to tell of a run into one HTML file."""
    run = arguments.first(RUN)
    path = write(run, _out(arguments))
    show([path, "open it in a browser; it needs nothing beside it", ""])
    show(following(reports.next_of_run(api.status(run))))
    return 0


def _out(arguments: Arguments) -> str:
    out = "report.html"
    for word in arguments.words[1:]:
        key, equals, value = word.partition("=")
        if key != "out" or not equals:
            raise ConfigError(f"{word}: expected out=FILE, for example out=report.html")
        if not value:
            raise ConfigError("out: expected the file to write, found nothing")
        out = value
    return out
