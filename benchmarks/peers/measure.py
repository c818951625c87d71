"""A peer on a benchmark set.

    python -m benchmarks.peers.measure --set tldr --peer omikuji --out tldr-omikuji.json

It runs in an environment of its own, because libpecos needs numpy below 2 while
newer releases of pyarrow need numpy 2: `benchmarks/constraints.txt` pins what
fits together.

The result is one JSON file. Peak memory is that of the whole process up to the
end of each phase. Seconds are wall time; CPU seconds, of all threads, depend
less on what else is running. A query's time is told from its text, and from
its features.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import CACHE, SETS, BenchmarkSet, Lists, find_sets, read_lists
from benchmarks.peers.clock import ANSWERED, ASKED, Clock, latency
from benchmarks.peers.features import Csr, TextFeatures, id_features, texts_of
from benchmarks.peers.metrics import TOP, Ids, contains, metrics
from benchmarks.peers.models import PEERS, Peer

SCHEMA = 2
PACKAGES = ("omikuji", "libpecos", "scikit-learn", "scipy", "numpy", "pyarrow")


def top_without(peer: Peer, features: Csr, left_out: Lists | None, classes: int) -> Ids:
    """Return each row's `TOP` best classes that are not among those to leave out.

    A row with v classes to leave out is asked for v more, so nothing is lost by dropping them.
    """
    counts = np.full(features.shape[0], TOP, np.int64)
    if left_out is None:
        return peer.top(features, counts)
    best = peer.top(features, counts + left_out.lengths)
    dropped = (best < 0) | contains(left_out, best, classes)
    order = np.argsort(dropped, axis=1, kind="stable")[:, :TOP]
    best[dropped] = -1
    return np.take_along_axis(best, order, axis=1)


def measure(chosen: BenchmarkSet, name: str, threads: int) -> dict[str, Any]:
    """Train a peer on a set, test it, and return what is written as JSON."""
    clock, peer = Clock(), PEERS[name](threads)
    labels, truth = (read_lists(part, chosen.labels) for part in (chosen.train, chosen.test))
    text = TextFeatures() if chosen.indices is None else None
    with clock.phase("features"):
        if text is None:
            train, test = id_features(chosen)
        else:
            train = text.fit(texts_of(chosen.train, chosen.text))
    peer.train(train, labels, chosen.classes, clock)
    rows = train.shape[0]
    with tempfile.TemporaryDirectory() as folder:
        peer.save(Path(folder) / "model")
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        model_bytes = sum(path.stat().st_size for path in files)
    if text is not None:
        asked = texts_of(chosen.test, chosen.text)
        with clock.phase("test_features"):
            test = text.rows(asked)
    one = np.array([ANSWERED])
    queries = {"features": latency(lambda row: peer.top(row, one), list(test[:ASKED]))}
    if text is not None:
        queries["text"] = latency(lambda query: peer.top(text.rows([query]), one), asked[:ASKED])
    left_out = None
    if chosen.leave_out_inputs and chosen.indices is not None:
        left_out = read_lists(chosen.test, chosen.indices)
    with clock.phase("predict"):
        best = top_without(peer, test, left_out, chosen.classes)
    return {
        "schema": SCHEMA,
        "set": chosen.name,
        "peer": name,
        "settings": peer.settings,
        "metrics": metrics(best, truth, chosen.classes),
        "inputs_left_out": left_out is not None,
        "classes": chosen.classes,
        "rows": {"train": rows, "test": test.shape[0]},
        "features": {"width": train.shape[1], "a_row": round(train.nnz / rows, 1)},
        "threads": threads,
        "cpus": os.cpu_count(),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "peak_rss_bytes": clock.peak_rss_bytes,
        "model_bytes": model_bytes,
        "query": queries,
        "packages": {package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
    }


def main() -> None:
    """Run one peer on one set and write its result."""
    parser = argparse.ArgumentParser(description="Measure a peer on a benchmark set.")
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder that holds api_search")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    sets, left_out = find_sets([arguments.set], cache=arguments.cache, build=False)
    if not sets:
        parser.exit(1, left_out[0] + "\n")
    result = measure(sets[0], arguments.peer, arguments.threads)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
