"""Text to hashed features, beside scikit-learn's HashingVectorizer, on one core.

    python -m benchmarks.featurizing

Both make word 1-2-grams and character 4-grams within words, hashed to 2^18 features, from the
same texts in batches of 1,024; each is timed three times in turn and the median is
kept. Writes benchmarks/results/featurizing.json and featurizing.md.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from scipy.sparse import hstack

from benchmarks.datasets import find_sets, read_column
from benchmarks.writing import QUICK, markdown, write_results
from workers.config import DataConfig, FeaturesConfig
from workers.features import Featurizer

SETS = ("api_search", "tldr", "omw", "debian_depends")
ROWS = 5_000 if QUICK else 50_000
BATCH = 1024
ROUNDS = 3


def main() -> None:
    """Time both on the sets that are there."""
    # One core for whatever threads the libraries start.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found, left_out = find_sets(SETS)
    for line in left_out:
        print(line)
    results = {}
    for chosen in found:
        column = read_column(chosen.train, chosen.text[0]).slice(0, ROWS)
        results[chosen.name] = measured(pa.table({"text": column.combine_chunks()}))
        print(chosen.name, results[chosen.name], flush=True)
    write_results("featurizing", {"sets": results}, table(results))


def measured(rows: pa.Table) -> dict[str, Any]:
    """Return rows a second of both, and the ratio."""
    texts = rows["text"].to_pylist()
    seconds: dict[str, list[float]] = {"manyworlds": [], "scikit_learn": []}
    ours, theirs = featurizer(), vectorizer()
    ours(rows.slice(0, BATCH))
    for _ in range(ROUNDS):
        seconds["manyworlds"].append(
            timed(lambda start: ours(rows.slice(start, BATCH)), rows.num_rows)
        )
        seconds["scikit_learn"].append(
            timed(lambda start: theirs(texts[start : start + BATCH]), rows.num_rows)
        )
    rates = {name: rows.num_rows / statistics.median(times) for name, times in seconds.items()}
    return {
        "rows": rows.num_rows,
        "characters_a_row": round(sum(map(len, texts)) / len(texts), 1),
        "rows_a_second": {name: round(rate) for name, rate in rates.items()},
        "ratio": round(rates["manyworlds"] / rates["scikit_learn"], 1),
    }


def featurizer() -> Callable[[pa.Table], Any]:
    """Return this project's way from rows to features."""
    data = DataConfig(train="-", classes=2, text=("text",))
    features = Featurizer(data, FeaturesConfig(), 0, 0)
    return lambda batch: features.batch(batch, labels=False)


def vectorizer() -> Callable[[list[str]], Any]:
    """Return scikit-learn's."""
    from sklearn.feature_extraction.text import HashingVectorizer

    options = {"n_features": 1 << 18, "alternate_sign": False}
    words = HashingVectorizer(ngram_range=(1, 2), **options)
    chars = HashingVectorizer(analyzer="char_wb", ngram_range=(4, 4), **options)
    return lambda batch: hstack([words.transform(batch), chars.transform(batch)], format="csr")


def timed(work: Callable[[int], Any], rows: int) -> float:
    """Return the seconds that all batches take."""
    began = time.perf_counter()
    for start in range(0, rows, BATCH):
        work(start)
    return time.perf_counter() - began


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Featurizing text",
        "",
        "Made by `make bench-featurizing`: rows a second on one core, word 1-2-grams and character"
        " 4-grams.",
        "",
        *markdown(
            ("set", "characters a row", "manyworlds", "HashingVectorizer", "ratio"),
            [
                (
                    name,
                    found["characters_a_row"],
                    f"{found['rows_a_second']['manyworlds']:,}",
                    f"{found['rows_a_second']['scikit_learn']:,}",
                    found["ratio"],
                )
                for name, found in results.items()
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
