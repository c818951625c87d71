from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.ensemble.metrics import (
    GROUPS,
    RankingMetrics,
    evaluate_ranking,
    frequency_groups,
    inverse_propensities,
)
from workers.errors import DataError

KS = (1, 3, 5)
Labels = list[list[int]]


def csr(rows: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return offsets, np.array([label for row in rows for label in row], dtype=np.int64)


def plain(
    ids: list[list[int]], rows: Labels, k: int, inverse: list[float], weights: list[float]
) -> dict[str, float]:
    """Metrics at one k, by their definitions, row by row."""
    kept = [(i, set(r), w) for i, r, w in zip(ids, rows, weights, strict=True) if r]
    sums = dict.fromkeys(("P", "Pcap", "R", "nDCG", "MRR", "WR"), 0.0)
    gain = best = 0.0
    for ranked, labels, weight in kept:
        hits = [c in labels for c in ranked[:k]]
        right = sum(hits)
        ideal = sum(1 / math.log2(j + 2) for j in range(min(k, len(labels))))
        sums["P"] += right / k
        sums["Pcap"] += right / min(k, len(labels))
        sums["R"] += right / len(labels)
        sums["WR"] += weight * right / len(labels)
        sums["nDCG"] += sum(h / math.log2(j + 2) for j, h in enumerate(hits)) / ideal
        sums["MRR"] += 1 / (hits.index(True) + 1) if right else 0.0
        gain += sum(inverse[c] for c in ranked[:k] if c in labels)
        best += sum(sorted((inverse[c] for c in labels), reverse=True)[:k])
    found = {f"{key}@{k}": value / len(kept) for key, value in sums.items()}
    found[f"WR@{k}"] = sums["WR"] / sum(weight for _, _, weight in kept)
    return {**found, f"PSP@{k}": gain / best}


def plain_groups(ids: list[list[int]], rows: Labels, groups: list[int]) -> dict[str, float]:
    """The recall of each group of classes, by its definition."""
    found = {}
    for group, name in enumerate(GROUPS):
        wanted = [{c for c in labels if groups[c] == group} for labels in rows]
        total = sum(len(one) for one in wanted)
        for k in KS if total else ():
            hits = sum(len(one & set(i[:k])) for one, i in zip(wanted, ids, strict=True))
            found[f"{name} R@{k}"] = hits / total
    return found


ranking = st.permutations(range(12)).map(lambda p: [*p[:6]])
cut = st.integers(0, 6)
row = st.tuples(ranking, cut, st.lists(st.integers(0, 11), max_size=8), st.floats(0.1, 10))


@given(
    st.lists(row, min_size=1, max_size=12), st.lists(st.integers(0, 50), min_size=12, max_size=12)
)
def test_metrics_are_what_their_definitions_say(
    rows: list[tuple[list[int], int, list[int], float]], counts: list[int]
) -> None:
    rows.append(([3, 1, 2, 0, 4, 5], 6, [2], 1.0))
    ids = [[*ranked[:n], *[-1] * (6 - n)] for ranked, n, _, _ in rows]
    labels = [labels for _, _, labels, _ in rows]
    weights = [weight for _, _, _, weight in rows]
    found = evaluate_ranking(
        np.array(ids),
        *csr(labels),
        ks=KS,
        counts=np.array(counts),
        weights=np.array(weights, dtype=np.float64),
        training_rows=1000,
    )
    inverse = inverse_propensities(np.array(counts), 1000).tolist()
    expected = {key: v for k in KS for key, v in plain(ids, labels, k, inverse, weights).items()}
    expected |= plain_groups(ids, labels, frequency_groups(np.array(counts)).tolist())
    empty = sum(not one for one in labels)
    expected |= {"rows": len(rows) - empty, "rows_without_labels": empty}
    assert found == pytest.approx(expected)


def test_batches_add_up_to_the_whole(rng: np.random.Generator) -> None:
    ids = np.argsort(rng.random((40, 30)), axis=1)[:, :10]
    labels = [rng.integers(0, 30, n).tolist() for n in rng.integers(0, 4, 40)]
    weights = rng.random(40).astype(np.float32)
    counts = rng.integers(0, 9, 30)
    metrics = RankingMetrics((1, 10), counts=counts)
    for start in range(0, 40, 7):
        part = slice(start, start + 7)
        metrics.update(ids[part], *csr(labels[part]), weights=weights[part])
    whole = evaluate_ranking(ids, *csr(labels), ks=(1, 10), counts=counts, weights=weights)
    assert metrics.result() == pytest.approx(whole)
    assert metrics.rows + metrics.rows_without_labels == 40


def test_a_perfect_ranking_scores_one() -> None:
    labels = [[4, 2], [0], []]
    found = evaluate_ranking(
        np.array([[2, 4, 1], [0, 3, 1], [0, 1, 2]]), *csr(labels), ks=(1, 2), counts=np.ones(5, int)
    )
    assert {key: value for key, value in found.items() if value != 1} == {
        "P@2": pytest.approx(0.75),
        "R@1": pytest.approx(0.75),
        # The rarer of the first row's two labels comes second.
        "tail R@1": 0.0,
        "rows": 2,
    }
    assert found["rows_without_labels"] == 1


def test_keys_depend_on_what_is_given() -> None:
    found = evaluate_ranking(np.array([[0]]), *csr([[0]]), ks=[1])
    assert list(found) == ["P@1", "Pcap@1", "R@1", "nDCG@1", "MRR@1", "rows", "rows_without_labels"]


def test_huge_class_ids_are_told_apart() -> None:
    big = 2**62
    found = evaluate_ranking(np.array([[big], [big + 1]]), *csr([[big], [big]]), ks=[1])
    assert found["P@1"] == 0.5


def test_inverse_propensities_are_the_published_ones() -> None:
    # 1 + (log 10000 - 1) * 2.5^0.55 * (N_l + 1.5)^-0.55 for N_l = 0 and 100.
    found = inverse_propensities(np.array([0, 100]), 10_000)
    assert found == pytest.approx([11.8737, 2.0707], abs=1e-4)
    assert inverse_propensities(np.array([5]), 1).tolist() == [1.0]


def test_what_cannot_be_measured_is_refused() -> None:
    ids = np.array([[0, 1], [1, 0]])
    with pytest.raises(DataError, match="expected ks of at least 1"):
        RankingMetrics([0, 1])
    with pytest.raises(DataError, match="expected at least 3 classes a row"):
        evaluate_ranking(ids, *csr([[0], [1]]), ks=[3])
    with pytest.raises(DataError, match="expected 3 label offsets"):
        evaluate_ranking(ids, *csr([[0]]), ks=[1])
    with pytest.raises(DataError, match="none among 2 rows"):
        evaluate_ranking(ids, *csr([[], []]), ks=[1])
    with pytest.raises(DataError, match="expected labels from 0 to 1, as many as counts"):
        evaluate_ranking(ids, *csr([[0], [2]]), ks=[1], counts=np.array([1, 1]))
    metrics = RankingMetrics([1])
    metrics.update(ids, *csr([[0], [1]]))
    with pytest.raises(DataError, match="weights in every update or in none"):
        metrics.update(ids, *csr([[0], [1]]), weights=np.ones(2))


def test_groups_hold_a_third_of_the_labels_each() -> None:
    counts = np.array([1, 30, 0, 10, 10, 9, 0, 30])
    assert [GROUPS[group] for group in frequency_groups(counts)] == [
        "tail",
        "head",
        "tail",
        "tail",
        "tail",
        "tail",
        "tail",
        "torso",
    ]


def test_groups_share_the_labels_that_are_found() -> None:
    counts = np.array([30, 30, 10, 10, 10, 0])
    ids = np.array([[0, 5, 1], [2, 3, -1], [1, 4, 0]])
    labels = [[0, 1], [3, 5], [4, 1, 2]]
    found = evaluate_ranking(ids, *csr(labels), ks=(1, 2), counts=counts)
    assert found["head R@1"] == 1.0
    assert found["torso R@1"] == 0.5
    assert found["torso R@2"] == 0.5
    # Of the labels 3, 5, 4 and 2, all rare, two are found at the second place.
    assert (found["tail R@1"], found["tail R@2"]) == (0.0, 0.5)


def test_a_group_without_labels_has_no_recall() -> None:
    found = evaluate_ranking(np.array([[0]]), *csr([[0]]), ks=(1,), counts=np.array([9, 1]))
    assert "tail R@1" not in found and found["head R@1"] == 1.0
