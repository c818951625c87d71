"""The verbs that ask an ensemble: evaluate and predict."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from rich.progress import Progress

from orchestrator import evaluations
from orchestrator.batch import BatchJob, predict_all
from orchestrator.cli import reports
from orchestrator.cli.arguments import Arguments, whole
from orchestrator.cli.output import draw, following, show
from orchestrator.ensemble.ensemble import Ensemble
from orchestrator.ensemble.evaluation import Evaluation
from orchestrator.ensemble.evaluation import evaluate as measure
from orchestrator.inputs import absolute
from orchestrator.schema import nearest
from orchestrator.words import plural
from workers.errors import ConfigError, StorageError

_ENSEMBLE = "a run or an ensemble: its folder or URI"
KEYS = ("data", "combiner", "leave_out", "frequencies", "rows")
BATCH_KEYS = ("data", "out", "combiner", "keep", "cluster")
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
    _keep(uri, found, told)
    again = ["evaluate", uri, f"data={told['data']}", "combiner=mean,log,min,median"]
    show(following([again, *reports.questions(uri, ensemble.config.data)[:1]]))
    return 0


def _keep(uri: str, found: Evaluation, told: Mapping[str, str]) -> None:
    """Keep what was measured on whole data sets with the run, for `plan` and `report`."""
    if "leave_out" in told or "rows" in told:
        return
    try:
        evaluations.keep(uri, found, absolute(told["data"]))
    except StorageError as error:
        print(f"manyworlds evaluate: not kept with the run: {error}", file=sys.stderr)


def predict(arguments: Arguments) -> int:
    """Answer queries, or all rows of a data set, with the classes that score highest."""
    uri, queries = arguments.first(_ENSEMBLE), arguments.words[1:]
    if not queries:
        raise arguments.wrong("one query or more after the run, found none")
    told = {word.partition("=")[0] for word in queries if "=" in word} & {"data", "out"}
    if len(told) == 2:
        return _predict_all(arguments, uri)
    if told:
        (missing,) = {"data", "out"} - told
        raise arguments.wrong(
            f"{missing}=PATH beside {told.pop()}=PATH, to answer all rows of a data set, found none"
        )
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


def _predict_all(arguments: Arguments, uri: str) -> int:
    told = _told(arguments.words[1:], BATCH_KEYS)
    if arguments.json:
        raise arguments.wrong("no --json where answers go to out=, found it")
    (k,) = arguments.k or (10,)
    job = BatchJob(
        ensemble=uri,
        data=told["data"],
        out=told["out"],
        k=k,
        combiner=told.get("combiner"),
        mode=arguments.mode,
        keep=tuple(told["keep"].split(",")) if "keep" in told else (),
    )
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("shards", total=None)
        found = predict_all(
            job,
            address=told.get("cluster", "auto"),
            progress=lambda done, parts: bar.update(task, completed=done, total=parts),
        )
    before = f", {plural(found.found, 'part')} of them there before" if found.found else ""
    show([f"{plural(found.rows, 'row')} answered in {plural(found.parts, 'part')}{before}"])
    return 0


def _told(words: Sequence[str], keys: Sequence[str] = KEYS) -> dict[str, str]:
    """Return key=value words as a mapping; raise all that is wrong with them."""
    told, problems = {}, []
    for word in words:
        key, _, value = word.partition("=")
        if key in keys and value:
            told[key] = value
            continue
        close = nearest(key, keys)
        hint = f"; did you mean {close}=...?" if close else ""
        problems.append(f"{word}: expected one of {', '.join(keys)} as key=value{hint}")
    if problems:
        raise ConfigError("\n".join(problems))
    return told
