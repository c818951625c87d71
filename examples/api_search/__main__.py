"""The quickstart: from installed packages to answers, in one command.

    python -m examples.api_search [FOLDER]

Reads the documentation of the packages that are installed next to it, trains
one world after the other on Ray, merges them, measures the ensemble beside
TF-IDF nearest neighbours, and asks it three questions.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from examples.api_search import neighbours
from examples.api_search.dataset import build
from examples.api_search.questions import QUESTIONS
from orchestrator import Ensemble, load_config, train
from orchestrator.config import RunConfig
from orchestrator.display import choose
from workers.features import label_lists

QUERIES = 3_000
"""Held-out sentences to measure on, evenly spaced: nearest neighbours are slow."""


@dataclass(frozen=True, slots=True)
class Held:
    """Sentences that were kept out of training, and whose each one is."""

    texts: list[str]
    labels: neighbours.Ints


def main(arguments: list[str]) -> int:
    """Run the quickstart in the folder that is named; return the exit status."""
    folder = Path(arguments[0] if arguments else "runs/api_search")
    began = time.monotonic()
    data = folder / "data"
    if not (data / "stats.json").exists():
        say("1/4 reading the documentation of the installed packages")
        build(str(data), progress=lambda line: say(f"    {line}"))
    classes = pq.read_metadata(data / "labels.parquet").num_rows
    config = settings(folder, classes)
    say(
        f"2/4 training {config.worlds} worlds: {classes:,} names in"
        f" {config.partition.buckets:,} buckets"
    )
    with choose() as shown:
        summary = train(config, listener=shown.show)
    if summary.ensemble is None:
        say(
            f"not finished: {summary.error or dict(summary.failed)};"
            f" see 'manyworlds status {config.run}'"
        )
        return 1
    with_ensemble(Ensemble.load(summary.ensemble), data)
    say(
        f"all in {time.monotonic() - began:.0f} s; ask more with"
        f"\n\n  manyworlds predict {config.run} 'your question in words'"
        f"\n  manyworlds evaluate {config.run} data={data / 'test'}\n"
    )
    return 0


def settings(folder: Path, classes: int) -> RunConfig:
    """Return the run's settings: the preset `quickstart` on the data in `folder`."""
    data = folder / "data"
    return load_config(
        "quickstart",
        [
            f"run={folder / 'run'}",
            f"data.train={data / 'train'}",
            f"data.validation={data / 'test'}",
            f"data.class_names={data / 'labels.parquet'}",
            f"data.classes={classes}",
            "data.text=[text]",
            "cluster.address=local",
        ],
    )


def with_ensemble(ensemble: Ensemble, data: Path) -> None:
    """Measure and ask."""
    held = held_out(data, QUERIES)
    say(f"3/4 measuring on {len(held.texts):,} sentences that no world has seen")
    ranked = ensemble.predict(held.texts, k=100).ids
    tell(f"MACH, {ensemble.worlds} worlds", neighbours.scores(ranked, held.labels))
    tell("TF-IDF nearest neighbours", nearest(data, held))
    say("4/4 asking")
    answers = ensemble.predict([question.text for question in QUESTIONS], k=5).names
    assert answers is not None
    for question, names in zip(QUESTIONS, answers, strict=True):
        say(f"    {question.text}?\n" + "\n".join(f"        {name}" for name in names))


def held_out(data: Path, limit: int) -> Held:
    """Return evenly spaced rows of the test split."""
    table = pq.read_table(data / "test")
    rows = table.take(neighbours.evenly_spaced(table.num_rows, limit))
    return Held(rows["text"].to_pylist(), label_lists(rows["labels"])[1])


def nearest(data: Path, held: Held) -> neighbours.Scores:
    """Return how well TF-IDF nearest neighbours do on the same sentences."""
    table = pq.read_table(data / "train")
    labels = label_lists(table["labels"])[1].astype(np.int64)
    index = neighbours.Neighbours(table["text"].to_pylist(), labels)
    return neighbours.scores(index.rank(held.texts, top=100), held.labels)


def tell(name: str, scores: neighbours.Scores) -> None:
    """Print one line of the comparison."""
    say(
        f"    {name:28} P@1 {100 * scores.precision_at_1:5.1f} %"
        f"   R@10 {100 * scores.recall_at_10:5.1f} %"
    )


def say(line: str) -> None:
    """Print at once, also into a file."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
