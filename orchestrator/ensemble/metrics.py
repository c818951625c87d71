"""How good a ranking is, at every k asked for.

`P@k` divides by k, `Pcap@k` by min(k, labels of the row); `R@k` is recall,
`WR@k` recall weighted by the rows' weights, `MRR@k` the mean reciprocal rank of
the first right class, `PSP@k` propensity-scored precision. `head R@k`,
`torso R@k` and `tail R@k` are the share of all labels of frequent, middling and
rare classes that were found. Rows without labels say nothing about a ranking:
they are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from workers.errors import DataError

Ids = NDArray[np.int64]
Values = NDArray[np.float64]
Groups = NDArray[np.int8]

GROUPS = ("head", "torso", "tail")
"""Classes from frequent to rare; in training a third of all labels is of each."""


def inverse_propensities(
    counts: NDArray[np.integer], rows: int, a: float = 0.55, b: float = 1.5
) -> Values:
    """Return 1 / p of each class: how much more a right answer of a rare class counts.

    Source: Jain, Prabhu and Varma, "Extreme multi-label loss functions", KDD 2016,
    section 4 with its constants A and B: 1 / p = 1 + C (N_l + B)^-A with
    C = (log N - 1) (B + 1)^A.

    Args:
        counts: (K,) training rows of each class, N_l.
        rows: training rows in all, N.
        a: A.
        b: B.
    """
    scale = max(0.0, np.log(max(rows, 1)) - 1) * (b + 1) ** a
    return np.asarray(1 + scale * (counts + b) ** -a, dtype=np.float64)


def frequency_groups(counts: NDArray[np.integer]) -> Groups:
    """Return each class's place in `GROUPS`, (K,) int8; what was never seen is `tail`.

    The most frequent classes that hold a third of all labels are the head, those that hold
    the next third the torso.

    Args:
        counts: (K,) training rows of each class.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    groups = np.empty(len(counts), np.int8)
    groups[order] = np.minimum(3 * before // max(1, int(counts.sum())), 2)
    groups[counts == 0] = 2
    return groups


class RankingMetrics:
    """Metrics over rows that come in batches.

    Args:
        ks: at which k.
        counts: (K,) training rows of each class, for `PSP@k` and for the recall of head, torso
            and tail; None: none of these.
        training_rows: in all; None: the sum of `counts`, right for one label a row.
    """

    def __init__(
        self,
        ks: Iterable[int],
        *,
        counts: NDArray[np.integer] | None = None,
        training_rows: int | None = None,
    ) -> None:
        self.ks = sorted(set(ks))
        if not self.ks or self.ks[0] < 1:
            raise DataError(f"metrics: expected ks of at least 1, found {self.ks}")
        self.rows = 0
        """Rows with labels so far."""
        self.rows_without_labels = 0
        self._sums: dict[str, float] = {}
        self._weight = 0.0
        self._weighted = False
        self._inverse: Values | None = None
        self._groups: Groups | None = None
        if counts is not None:
            self._groups = frequency_groups(counts)
            total = int(counts.sum()) if training_rows is None else training_rows
            self._inverse = inverse_propensities(counts, total)

    def update(
        self,
        ids: Ids,
        label_offsets: Ids,
        labels: Ids,
        *,
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Take in the ranking of n more rows.

        Args:
            ids: (n, at least the largest k) class ids, best first, none twice in a row
                of the array, -1 for no class.
            label_offsets: (n + 1,) int64 offsets into `labels`.
            labels: true classes of the rows; one that is listed twice counts once.
            weights: (n,) of the rows, for `WR@k`; given in all updates or in none.

        Raises:
            DataError: if the arrays do not fit together.
        """
        self._check(ids, label_offsets, labels, weights)
        owners, labels = distinct(label_offsets, labels)
        totals = np.bincount(owners, minlength=len(ids))
        hits = _hits(ids[:, : self.ks[-1]], owners, labels)
        labelled = totals > 0
        self.rows += int(labelled.sum())
        self.rows_without_labels += int((~labelled).sum())
        self._add_ranks(hits[labelled], totals[labelled])
        if weights is not None:
            self._add_weighted(hits[labelled], totals[labelled], weights[labelled])
        if self._inverse is not None:
            self._add_propensities(ids, hits, owners, labels, self._inverse)
        if self._groups is not None:
            self._add_groups(ids, hits, labels, self._groups)

    def result(self) -> dict[str, float]:
        """Return each metric (0 to 1), and how many rows had labels and how many had none.

        Raises:
            DataError: if no row had a label.
        """
        if not self.rows:
            raise DataError(
                "metrics: expected rows with labels, found none among"
                f" {self.rows_without_labels} rows; evaluate on rows whose labels are known"
            )
        found = {}
        for key, total in self._sums.items():
            kind = key.partition("@")[0]
            if kind == "WR":
                found[key] = total / self._weight if self._weight else 0.0
            elif kind == "PSP":
                found[key] = total / self._sums["best " + key]
            elif key.startswith(GROUPS):
                labels = self._sums[f"{key.split()[0]} labels"]
                if "@" in key and labels:
                    found[key] = total / labels
            elif not kind.startswith("best "):
                found[key] = total / self.rows
        return {
            **found,
            "rows": float(self.rows),
            "rows_without_labels": float(self.rows_without_labels),
        }

    def _check(
        self, ids: Ids, label_offsets: Ids, labels: Ids, weights: NDArray[np.floating] | None
    ) -> None:
        if ids.ndim != 2 or ids.shape[1] < self.ks[-1]:
            raise DataError(
                f"metrics: expected at least {self.ks[-1]} classes a row, found {ids.shape};"
                " ask the ensemble for as many as the largest k"
            )
        if len(label_offsets) != len(ids) + 1 or label_offsets[-1] != len(labels):
            raise DataError(
                f"metrics: expected {len(ids) + 1} label offsets that end at {len(labels)},"
                f" found {len(label_offsets)} that end at {label_offsets[-1]};"
                " give the labels of the same rows"
            )
        classes = None if self._inverse is None else len(self._inverse)
        if classes is not None and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise DataError(
                f"metrics: expected labels from 0 to {classes - 1:,}, as many as counts,"
                f" found {labels.min()} to {labels.max()}; give counts of all classes"
            )
        known = self.rows + self.rows_without_labels > 0
        if known and (weights is not None) != self._weighted:
            raise DataError(
                "metrics: expected weights in every update or in none, found both;"
                " give 1.0 to rows that have no weight of their own"
            )
        self._weighted = weights is not None

    def _add(self, key: str, value: float) -> None:
        self._sums[key] = self._sums.get(key, 0.0) + value

    def _add_ranks(self, hits: NDArray[np.bool_], totals: Ids) -> None:
        discounts = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
        right = np.cumsum(hits, axis=1)
        gains = np.cumsum(hits * discounts, axis=1)
        ideal = np.cumsum(discounts)
        first = np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1])
        for k in self.ks:
            at_k = right[:, k - 1]
            reachable = np.minimum(totals, k)
            self._add(f"P@{k}", float(at_k.sum()) / k)
            self._add(f"Pcap@{k}", float((at_k / reachable).sum()))
            self._add(f"R@{k}", float((at_k / totals).sum()))
            self._add(f"nDCG@{k}", float((gains[:, k - 1] / ideal[reachable - 1]).sum()))
            self._add(f"MRR@{k}", float((1 / (first[first < k] + 1)).sum()))

    def _add_weighted(
        self, hits: NDArray[np.bool_], totals: Ids, weights: NDArray[np.floating]
    ) -> None:
        self._weight += float(weights.sum(dtype=np.float64))
        for k in self.ks:
            recall = hits[:, :k].sum(axis=1) / totals
            self._add(f"WR@{k}", float((recall * weights).sum()))

    def _add_propensities(
        self, ids: Ids, hits: NDArray[np.bool_], owners: Ids, labels: Ids, inverse: Values
    ) -> None:
        # As a share of what the best ranking of the same rows would get, as the
        # Extreme Classification Repository reports it.
        gains = np.where(hits, inverse[np.where(hits, ids[:, : hits.shape[1]], 0)], 0.0)
        values = inverse[labels]
        order = np.lexsort((-values, owners))
        starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(ids)))])
        ranks = np.arange(len(owners)) - starts[owners[order]]
        for k in self.ks:
            self._add(f"PSP@{k}", float(gains[:, :k].sum()) / k)
            self._add(f"best PSP@{k}", float(values[order][ranks < k].sum()) / k)

    def _add_groups(self, ids: Ids, hits: NDArray[np.bool_], labels: Ids, groups: Groups) -> None:
        found = np.where(hits, groups[np.where(hits, ids[:, : hits.shape[1]], 0)], -1)
        for group, name in enumerate(GROUPS):
            self._add(f"{name} labels", float((groups[labels] == group).sum()))
            for k in self.ks:
                self._add(f"{name} R@{k}", float((found[:, :k] == group).sum()))


def evaluate_ranking(
    ids: Ids,
    label_offsets: Ids,
    labels: Ids,
    *,
    ks: Iterable[int],
    counts: NDArray[np.integer] | None = None,
    weights: NDArray[np.floating] | None = None,
    training_rows: int | None = None,
) -> dict[str, float]:
    """Return the metrics of one ranking; arguments as for `RankingMetrics`."""
    metrics = RankingMetrics(ks, counts=counts, training_rows=training_rows)
    metrics.update(ids, label_offsets, labels, weights=weights)
    return metrics.result()


def distinct(offsets: Ids, labels: Ids) -> tuple[Ids, Ids]:
    """Return each label's row and the labels, ascending within rows, none twice."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((labels, owners))
    owners, labels = owners[order], labels[order]
    new = np.ones(len(labels), dtype=bool)
    new[1:] = (np.diff(owners) != 0) | (np.diff(labels) != 0)
    return owners[new], labels[new]


def _hits(ids: Ids, owners: Ids, labels: Ids) -> NDArray[np.bool_]:
    """Return whether each id (n, k) is a label of its row."""
    if not len(labels):
        return np.zeros(ids.shape, dtype=bool)
    # Ids are replaced by their places among the labels that occur, so that a pair
    # of row and label is one number that cannot overflow.
    known, places = np.unique(labels, return_inverse=True)
    pairs = owners * len(known) + places
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    wanted = np.arange(len(ids))[:, None] * len(known) + place
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return np.asarray((known[place] == ids) & (pairs[at] == wanted))
