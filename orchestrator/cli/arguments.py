"""The words of a command line, taken apart."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from workers.errors import ConfigError

MODES = ("exact", "full", "pruned", "candidates")
"""How the best classes are found; those of `Ensemble.predict`, without what that imports."""
WEIGHTS = ("fp32", "bf16", "int8")
"""What an ensemble stores its weights in; `workers.precision.PRECISIONS`, likewise."""
LOOKUPS = ("computed", "stored")
"""Where an ensemble has classes' buckets from; `orchestrator.ensemble.artefact.LOOKUPS`."""
RUN = "a run: the folder or URI that `manyworlds train` was given as run="
"""What most verbs expect."""

DESCRIPTION = """\
Classifiers over 10^4 to 10^8 classes: worlds that train apart, merged into one
ensemble that answers. `manyworlds VERB --help` tells more about each verb."""

EXAMPLES = {
    "prepare": """\
  manyworlds prepare source=clicks/ out=data 'text=[query]' labels=product
  manyworlds prepare source=s3://logs/2026/*.tsv out=s3://bucket/data 'text=[q]' labels=item \\
      'columns=[time,q,item]' min_count=5
Every key=value is a setting: text, indices, values, labels, label_separator, weight, format,
columns, encoding, classes, min_count, most_labels, repeats, validation, test. It runs on a Ray
cluster; cluster=none: in one process. The same command again carries on.""",
    "plan": """\
  manyworlds plan data.train=rows data.classes=30000 'data.text=[query]'
  manyworlds plan data.train=rows data.classes=30000 'data.text=[query]' --target-hours 6
  manyworlds plan amazon-50m training.epochs=10 --rows 70000000 --features 30
  manyworlds plan runs/a
Settings are those of train. B and R that are not given are chosen: so that neither any two classes
share all of their buckets (--confusion, a chance), nor a class's probability is off by its
buckets' other classes (--deviation, a standard deviation). Of a run it tells what more worlds
would bring.""",
    "train": """\
  manyworlds train quickstart run=runs/a data.train=rows data.classes=30000 data.text=[query]
  manyworlds train my-job.yaml worlds=16 cluster.gpus_per_world=0.5 --dry-run
  manyworlds train my-job.yaml run=s3://bucket/a --submit http://head:8265
Every key=value is a setting: conf/default.yaml lists them all with their defaults.
The same command on the same run carries on where it stands.""",
    "resume": """\
  manyworlds resume runs/a
  manyworlds resume runs/a --worlds 3,7
  manyworlds resume s3://bucket/a cluster.max_parallel=4""",
    "status": """\
  manyworlds status runs/a
  manyworlds status runs/a --attempts
  manyworlds status s3://bucket/a --watch
  manyworlds status s3://bucket/a --json
It reads the run's storage and nothing else: any machine that can do so will do. With --watch it
ends when all worlds are done, with exit code 0, or when nobody drives the run any more, with 1.
In a terminal, worlds that do not fit are rolled up; `| cat` shows every one.""",
    "logs": """\
  manyworlds logs runs/a
  manyworlds logs runs/a --world 3 --lines 200
  manyworlds logs runs/a --world 3 --attempt 02-x7f2""",
    "stop": """\
  manyworlds stop runs/a
  manyworlds stop s3://bucket/a --no-wait
Every world writes a checkpoint, then the driver leaves; `manyworlds resume` goes on.""",
    "grow": "  manyworlds grow runs/a worlds=48",
    "clean": """\
  manyworlds clean runs/a --dry-run
  manyworlds clean runs/a""",
    "merge": "  manyworlds merge runs/a --min-worlds 6",
    "evaluate": "  manyworlds evaluate runs/a data=held-out.parquet --k 1,5,10,100",
    "predict": """\
  manyworlds predict runs/a "cumulative product along an axis" --k 5 --json
  manyworlds predict runs/a "cumulative product along an axis" --mode candidates
  manyworlds predict runs/a data=queries/ out=answers/ keep=id --k 100""",
    "serve": """\
  manyworlds serve runs/a
  manyworlds serve s3://bucket/a host=0.0.0.0 port=80 replicas=4 token=env:TOKEN
Settings: host, port, replicas, cpus, gpus, token, batch, waiting, most_queries, most_k, most_bytes,
body_seconds, refresh_seconds, copies, neighbours. It runs on a Ray cluster; cluster=none: in this
process. A newer ensemble of the run takes over as soon as it is merged. Ctrl-C ends it.""",
    "report": """\
  manyworlds report runs/a
  manyworlds report s3://bucket/a out=reports/a.html
One HTML file that needs nothing beside it; default: report.html. Of unfinished runs, too.""",
    "doctor": "  manyworlds doctor s3://bucket/runs",
}

HELP = {
    "prepare": "turn raw CSV, TSV, JSON lines, Parquet or XMC files into shards with class ids",
    "plan": "say how many buckets and worlds it takes, where, how long, and for how much",
    "train": "train the worlds of a run and merge them",
    "resume": "go on with the worlds of a run that are not done, failed ones included",
    "status": "show who drives a run, its worlds, and how their attempts ended",
    "logs": "show what the attempts at a run's worlds wrote into their logs",
    "stop": "let every world of a run write a checkpoint, and its driver leave",
    "grow": "give a run more worlds, train them and merge",
    "clean": "remove checkpoints, leftovers and ensembles that a run needs no more",
    "merge": "merge the worlds that are done into an ensemble",
    "evaluate": "measure an ensemble on labelled rows",
    "predict": "answer queries with the top classes",
    "serve": "answer over HTTP, with a page to ask on",
    "report": "write what there is to tell of a run into one HTML file",
    "doctor": "look at what this machine offers and lacks",
}
"""The verbs, in the order of use."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """One command line."""

    verb: str
    words: tuple[str, ...] = ()
    """All that is neither verb nor option."""
    dry_run: bool = False
    worlds: tuple[int, ...] | None = None
    world: int | None = None
    attempt: str | None = None
    attempts: bool = False
    watch: bool = False
    every: float | None = None
    lines: int = 50
    no_wait: bool = False
    min_worlds: int | None = None
    weights: str | None = None
    lookup: str | None = None
    k: tuple[int, ...] | None = None
    mode: str = "exact"
    json: bool = False
    take_over: bool = False
    rows: int = 0
    features: float = 30.0
    confusion: float = 0.001
    deviation: float = 0.01
    calibrate: float = 10.0
    machines: str | None = None
    target_hours: float | None = None
    submit: str | None = None
    runtime_env: str | None = None
    detach: bool = False

    def first(self, what: str) -> str:
        """Return the first word.

        Raises:
            ConfigError: there is none.
        """
        if self.words:
            return self.words[0]
        raise self.wrong(f"{what}, found nothing")

    def only(self, what: str) -> str:
        """Return the first word of a verb that takes just one.

        Raises:
            ConfigError: there is none, or more than one.
        """
        if len(self.words) > 1:
            raise self.wrong(f"{what}, found {', '.join(self.words)}")
        return self.first(what)

    def wrong(self, expected: str) -> ConfigError:
        """Return the error that says what was expected, with an example."""
        return ConfigError(f"expected {expected}; for example\n{EXAMPLES[self.verb]}")

    def carry_on(self) -> str | None:
        """Return the command that goes on after an interruption; None: there is nothing to do."""
        if self.verb not in ("prepare", "train", "resume", "grow"):
            return None
        return shlex.join(["manyworlds", *self.again()])

    def again(self) -> list[str]:
        """Return the words of the same command once more."""
        submit = [] if self.submit is None else ["--submit", self.submit]
        environment = [] if self.runtime_env is None else ["--runtime-env", self.runtime_env]
        return [self.verb, *self.words, *self.only_worlds(), *submit, *environment]

    def only_worlds(self) -> list[str]:
        """Return the words of the option that names worlds."""
        return [] if self.worlds is None else ["--worlds", ",".join(map(str, self.worlds))]


def parse(words: Sequence[str]) -> Arguments:
    """Return a command line taken apart; ends the process on --help and on wrong options."""
    root = parser()
    known, rest = root.parse_known_args(list(words))
    for word in rest:
        if word.startswith("--") and "=" in word and "." in word:
            root.error(f"unknown option {word}; settings have no dashes: {word.lstrip('-')}")
        if word.startswith("-"):
            root.error(f"unknown option {word}; `manyworlds {known.verb} --help` lists them")
    values = vars(known)
    positional = (*values.pop("words", ()), *rest)
    return Arguments(words=positional, **values)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    root = argparse.ArgumentParser(
        prog="manyworlds",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = root.add_subparsers(dest="verb", metavar="VERB", required=True)
    made = {verb: _verb(verbs, verb) for verb in HELP}
    _words(made["prepare"], "key=value", "where raw rows are, and what their columns mean")
    _plan(made["plan"])
    _words(made["train"], "[PRESET] key=value", "a preset, and settings over it")
    made["train"].add_argument("--dry-run", action="store_true", help="say what it takes, and end")
    _words(made["resume"], "RUN [key=value]", "the run, and settings that may change")
    made["resume"].add_argument(
        "--worlds", type=_numbers, metavar="N,...", help="only these, also if they are failed"
    )
    _words(made["grow"], "RUN worlds=N [key=value]", "the run, its worlds in all, and settings")
    for verb in ("train", "resume", "grow"):
        made[verb].add_argument(
            "--take-over", action="store_true", help="drive the run even if another driver seems to"
        )
        made[verb].add_argument(
            "--submit", metavar="ADDRESS", help="run this as a job of the Ray cluster there"
        )
        made[verb].add_argument(
            "--runtime-env", metavar="FILE", help="what Ray shall prepare for the job, as YAML"
        )
        made[verb].add_argument(
            "--detach", action="store_true", help="do not wait for the end of the job"
        )
    _words(made["status"], "RUN", "the run")
    made["status"].add_argument("--attempts", action="store_true", help="every attempt, too")
    made["status"].add_argument("--watch", action="store_true", help="look again and again")
    made["status"].add_argument(
        "--every", type=_amount, metavar="SECONDS", help="between two looks; default: 2"
    )
    made["status"].add_argument("--json", action="store_true", help="all of it as one JSON object")
    _words(made["logs"], "RUN", "the run")
    made["logs"].add_argument(
        "--world", type=_number, metavar="N", help="of this one; default: the last line of each"
    )
    made["logs"].add_argument(
        "--attempt", metavar="NAME", help="of this one; default: the newest that wrote a log"
    )
    made["logs"].add_argument(
        "--lines", type=_positive, default=50, metavar="N", help="at most; default: 50"
    )
    _words(made["stop"], "RUN", "the run")
    made["stop"].add_argument(
        "--no-wait", action="store_true", help="ask only; do not wait until the driver has left"
    )
    _words(made["clean"], "RUN", "the run")
    made["clean"].add_argument("--dry-run", action="store_true", help="say what would go, and end")
    _words(made["merge"], "RUN", "the run")
    made["merge"].add_argument(
        "--min-worlds", type=_positive, metavar="N", help="be content with N finished worlds"
    )
    made["merge"].add_argument(
        "--weights", choices=WEIGHTS, help="what to store them in; default: as the run says"
    )
    made["merge"].add_argument(
        "--lookup", choices=LOOKUPS, help="whether to store classes' buckets; likewise"
    )
    _words(made["evaluate"], "RUN|ENSEMBLE data=PATH", "what to measure, and labelled Parquet rows")
    made["evaluate"].add_argument("--k", type=_ranks, metavar="N,...", help="default: 1,5,10,100")
    _words(
        made["predict"],
        "RUN|ENSEMBLE TEXT",
        "what to ask, and the queries; or data=PATH out=PATH for all rows of a data set",
    )
    made["predict"].add_argument(
        "--k", type=_one_rank, metavar="N", help="classes each; default: 10"
    )
    made["predict"].add_argument(
        "--mode",
        choices=MODES,
        default="exact",
        help="full and pruned are exact too; candidates: nearly, in the same time for all queries",
    )
    made["predict"].add_argument("--json", action="store_true", help="one JSON object a query")
    _words(made["serve"], "RUN|ENSEMBLE [key=value]", "what to serve, and settings")
    _words(made["report"], "RUN [out=FILE]", "the run, and where the page goes")
    _words(made["doctor"], "[STORAGE]", "a folder or URI to try; default: this folder")
    return root


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        verb,
        help=HELP[verb],
        description=HELP[verb].capitalize() + ".",
        epilog="examples:\n" + EXAMPLES[verb],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _words(verb: argparse.ArgumentParser, metavar: str, text: str) -> None:
    verb.add_argument("words", nargs="*", metavar=metavar, help=text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text!r}")
    return value


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected the number of a world, found {text!r}")
    return int(text)


def _ranks(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(part.strip()) for part in text.split(",")}))


def _plan(verb: argparse.ArgumentParser) -> None:
    _words(verb, "[PRESET|RUN] key=value", "a preset and settings over it, or a run")
    verb.add_argument(
        "--rows", type=_positive, default=0, metavar="N", help="of data that is not there yet"
    )
    verb.add_argument(
        "--features", type=_amount, default=30.0, metavar="N", help="of such a row; default: 30"
    )
    verb.add_argument(
        "--confusion", type=_share, default=0.001, metavar="CHANCE", help="at most; default: 0.001"
    )
    verb.add_argument(
        "--deviation", type=_share, default=0.01, metavar="SHARE", help="at most; default: 0.01"
    )
    verb.add_argument(
        "--calibrate",
        type=_from_zero,
        default=10.0,
        metavar="SECONDS",
        help="train worlds here for so long to measure their pace; 0: do not; default: 10",
    )
    verb.add_argument(
        "--machines", metavar="FILE", help="types of machines; default: conf/machines.yaml"
    )
    verb.add_argument(
        "--target-hours", type=_amount, metavar="N", help="say how many machines end it in time"
    )
    verb.add_argument("--json", action="store_true", help="all of it as one JSON object")


def _from_zero(text: str) -> float:
    return 0.0 if text.strip("0.") == "" and "0" in text else _amount(text)


def _share(text: str) -> float:
    if not 0 < (value := _amount(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, found {text!r}")
    return value


def _one_rank(text: str) -> tuple[int, ...]:
    return (_positive(text),)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected world numbers such as 3,7, found {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def whole(key: str, text: str) -> int:
    """Return the value of a `key=value` word that must be a whole number from 1.

    Raises:
        ConfigError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{key}: expected a whole number from 1, found {text!r}")
    return int(text)
