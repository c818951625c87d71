"""The verbs that ask an ensemble: evaluate and predict."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.progress import Progress

from orchestrator.cli import reports
from orchestrator.cli.arguments import Arguments, whole
from orchestrator.cli.output import draw, following, show
from orchestrator.ensemble.ensemble import Ensemble
from orchestrator.ensemble.evaluation import evaluate as measure
from orchestrator.schema import nearest
from workers.errors import ConfigError

_ENSEMBLE = "a run or an ensemble: its folder or URI"
_KEYS = ("data", "combiner", "leave_out", "frequencies", "rows")
_RANKS = (1, 5, 10, 100)


def evaluate(arguments: Arguments) -> int:
    """Measure an ensemble on labelled rows, with the curve over its worlds."""
    uri = arguments.first(_ENSEMBLE)
    told = _told(arguments.words[1:])
    if "data" not in told:
        raise arguments.wrong("data=PATH of labelled Parquet rows, found nothing")
    ensemble = Ensemble.load(uri)
    ks = arguments.k or _RANKS
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("rows", total=None)
        found = measure(
            ensemble,
            told["data"],
            ks=[k for k in ks if k <= ensemble.classes],
            combiners=told["combiner"].split(",") if "combiner" in told else None,
            leave_out=told.get("leave_out"),
            frequencies=told.get("frequencies"),
            limit=whole("rows", told["rows"]) if "rows" in told else None,
            progress=lambda done, rows: bar.update(task, completed=done, total=rows),
        )
    draw(*reports.evaluation(found))
    again = ["evaluate", uri, f"data={told['data']}", "combiner=mean,log,min,median"]
    show(following([again, *reports.questions(uri, ensemble.config.data)[:1]]))
    return 0


def predict(arguments: Arguments) -> int:
    """Answer queries with the classes that score highest."""
    uri, queries = arguments.first(_ENSEMBLE), arguments.words[1:]
    if not queries:
        raise arguments.wrong("one query or more after the run, found none")
    (k,) = arguments.k or (10,)
    answers = reports.answers(
        queries, Ensemble.load(uri).predict(queries, k=k, mode=arguments.mode)
    )
    if arguments.json:
        show(json.dumps(answer, ensure_ascii=False) for answer in answers)
        return 0
    for answer in answers:
        show(reports.answer_lines(answer))
    show(following([["predict", uri, *queries, "--k", str(k), "--json"]]))
    return 0


def _told(words: Sequence[str]) -> dict[str, str]:
    """Return key=value words as a mapping; raise all that is wrong with them."""
    told, problems = {}, []
    for word in words:
        key, _, value = word.partition("=")
        if key in _KEYS and value:
            told[key] = value
            continue
        close = nearest(key, _KEYS)
        hint = f"; did you mean {close}=...?" if close else ""
        problems.append(f"{word}: expected one of {', '.join(_KEYS)} as key=value{hint}")
    if problems:
        raise ConfigError("\n".join(problems))
    return told
