"""The verbs that train worlds and merge them: train, resume, grow, merge."""

from __future__ import annotations

import sys

from orchestrator import api, config, display
from orchestrator.cli import reports, submitting
from orchestrator.cli.arguments import RUN, Arguments, whole
from orchestrator.cli.output import following, show
from orchestrator.inputs import open_inputs
from orchestrator.plan import Data, size_of
from orchestrator.words import plural

OK, WORLDS_FAILED, GAVE_UP = 0, 1, 2
"""Exit codes."""


def train(arguments: Arguments) -> int:
    """Train a run from a preset and settings, or with --dry-run say what that takes."""
    presets = [word for word in arguments.words if "=" not in word]
    if len(presets) > 1:
        raise arguments.wrong(f"one preset and key=value settings, found {', '.join(presets)}")
    settings = [word for word in arguments.words if "=" in word]
    wanted = config.load(presets[0] if presets else None, settings)
    if arguments.dry_run:
        data = Data.read(wanted, open_inputs(wanted))
        show([*reports.dry_run(wanted, size_of(wanted, data)), ""])
        show(following([arguments.again(), ["doctor", wanted.run]]))
        return OK
    if submitting.asked(arguments):
        return submitting.train(arguments, wanted)
    many = plural(wanted.worlds, "world")
    show([f"run {wanted.run}: {many}, {reports.placement(wanted.cluster)}"])
    if wanted.cluster.address == "auto":
        from orchestrator.executors import cluster

        show(filter(None, [cluster.foretold(wanted.cluster.address)]))
    with display.choose() as shown:
        summary = api.train(wanted, listener=shown.show, take_over=arguments.take_over)
    return _finished(summary)


def resume(arguments: Arguments) -> int:
    """Go on with a run as its storage has it."""
    run = arguments.first(RUN)
    if submitting.asked(arguments):
        return submitting.go_on(arguments, run)
    with display.choose() as shown:
        summary = api.resume(
            run,
            arguments.worlds,
            overrides=arguments.words[1:],
            listener=shown.show,
            take_over=arguments.take_over,
        )
    return _finished(summary)


def grow(arguments: Arguments) -> int:
    """Give a run more worlds, train them and merge."""
    run = arguments.first(RUN)
    counts = [word for word in arguments.words[1:] if word.startswith("worlds=")]
    others = [word for word in arguments.words[1:] if word not in counts]
    if len(counts) != 1:
        raise arguments.wrong(f"worlds=N once, found {', '.join(counts) or 'nothing'}")
    if submitting.asked(arguments):
        return submitting.go_on(arguments, run)
    with display.choose() as shown:
        summary = api.grow(
            run,
            whole("worlds", counts[0].removeprefix("worlds=")),
            overrides=others,
            listener=shown.show,
            take_over=arguments.take_over,
        )
    return _finished(summary)


def merge(arguments: Arguments) -> int:
    """Merge the worlds of a run that are done."""
    run = arguments.only(RUN)
    ensemble = api.merge(
        run,
        min_worlds=arguments.min_worlds,
        weights=arguments.weights,
        lookup=arguments.lookup,
    )
    show([f"merged into {ensemble}", ""])
    show(following(reports.questions(run, api.status(run).config.data)))
    return OK


def _finished(summary: api.RunSummary) -> int:
    found = api.status(summary.run)
    show([*reports.outcome(summary, found), ""])
    show(following(reports.next_of_run(found, merged=summary.ensemble is not None)))
    if summary.error:
        print(f"manyworlds: {summary.error}", file=sys.stderr)
        return GAVE_UP
    return WORLDS_FAILED if summary.failed else OK
