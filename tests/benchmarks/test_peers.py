"""What is done around the peers: their input, their answers, and the metrics."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix

from benchmarks.datasets import Lists
from benchmarks.peers.__main__ import table
from benchmarks.peers.features import Csr
from benchmarks.peers.measure import top_without
from benchmarks.peers.metrics import TOP, metrics
from benchmarks.peers.models import sorted_rows, write_xmc

CLASSES = 300


class Ranked:
    """A peer that gives every row the classes in a fixed order."""

    settings = "fixed"

    def __init__(self, order: npt.NDArray[np.int64]) -> None:
        self.order = order

    def train(self, features: Csr, labels: Lists, classes: int, clock: object) -> None:
        """Learn nothing."""

    def save(self, folder: Path) -> None:
        """Write nothing."""

    def top(self, features: Csr, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        best = np.full((len(counts), int(counts.max())), -1, np.int64)
        for row, count in enumerate(counts):
            best[row, :count] = self.order[row, :count]
        return best


def as_lists(rows: list[list[int]]) -> Lists:
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return Lists(offsets, np.array([one for row in rows for one in row], np.int64))


def orders(rows: int, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.argsort(np.random.default_rng(seed).random((rows, CLASSES)), axis=1)


def choices(rows: int, most: int, seed: int = 1) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.permutation(CLASSES)[: random.integers(most)].tolist() for _ in range(rows)]


def test_rows_are_written_in_the_repository_format() -> None:
    features = csr_matrix(np.array([[1, 0, 0.5], [0, 0, 0], [0, 2, 0]], np.float32))
    file = io.BytesIO()
    write_xmc(file, features, as_lists([[4, 1], [0], []]), classes=5)
    assert file.getvalue() == b"3 3 5\n4,1 0:1 2:0.5\n0\n 1:2\n"


def test_rows_of_a_sparse_matrix_are_ranked_and_padded() -> None:
    scores = csr_matrix(np.array([[0.1, 0, 0.9, 0.5], [0, 0, 0, 0], [0, 0.2, 0, 0]]))
    assert sorted_rows(scores, 2).tolist() == [[2, 3], [-1, -1], [1, -1]]


def test_what_is_left_out_makes_room_for_the_next_best() -> None:
    order, left_out = orders(20), choices(20, most=150)
    best = top_without(Ranked(order), csr_matrix((20, 2)), as_lists(left_out), CLASSES)
    for row, excluded in enumerate(left_out):
        wanted = [one for one in order[row].tolist() if one not in excluded][:TOP]
        assert best[row].tolist() == wanted


def test_metrics_are_those_of_their_definitions() -> None:
    order, labels = orders(30)[:, :TOP], choices(30, most=40)
    hits = [
        ([one in label for one in row], len(label))
        for row, label in zip(order.tolist(), labels, strict=True)
        if label
    ]
    rows = len(hits)
    gain = [1 / math.log2(rank + 2) for rank in range(20)]
    wanted = {
        "P@1": sum(hit[0] for hit, _ in hits) / rows,
        "P@5": sum(sum(hit[:5]) / 5 for hit, _ in hits) / rows,
        "R@10": sum(sum(hit[:10]) / count for hit, count in hits) / rows,
        "R@20": sum(sum(hit[:20]) / count for hit, count in hits) / rows,
        "R@100": sum(sum(hit) / count for hit, count in hits) / rows,
        "NDCG@20": sum(
            sum(gain[rank] for rank in range(20) if hit[rank]) / sum(gain[: min(count, 20)])
            for hit, count in hits
        )
        / rows,
        "MRR@20": sum(1 / (hit.index(True) + 1) for hit, _ in hits if True in hit[:20]) / rows,
    }
    assert metrics(order, as_lists(labels), CLASSES) == pytest.approx(wanted, abs=1e-5)


def test_an_ensemble_has_a_line_for_each_number_of_worlds() -> None:
    metrics = {"P@1": 0.4, "R@10": 0.6, "R@100": 0.8}
    query = {"p50_ms": 1.0, "p99_ms": 2.0}
    found = {
        "settings": {"worlds": 2},
        "metrics": {"1": metrics, "2": metrics},
        "seconds": {"train": 30.0, "predict": 5.0},
        "cpu_seconds": {"train": 58.0, "predict": 9.0},
        "peak_rss_bytes": {"train": 2_000_000_000},
        "model_bytes": 100_000_000,
        "query": {"text": {"1": query, "2": query}},
    }
    lines = [line for line in table({"tldr": {"mach": found}}).splitlines() if "tldr" in line]
    assert [[cell.strip() for cell in line.split("|")[2:-3]] for line in lines] == [
        ["MACH, R = 1", "40.0", "60.0", "80.0", "", "15.0", "29", "2,000", "50"],
        ["MACH, R = 2", "40.0", "60.0", "80.0", "", "30.0", "58", "2,000", "100"],
    ]
