"""Made-up batches of the paper's size, without anything but numpy."""

from __future__ import annotations

import numpy as np

from workers.kernels.steps import Examples


def made_up(
    rows: int, *, dimension: int, features: int, buckets: int, seed: int, most_labels: int = 1
) -> Examples:
    """Return random rows, each of `features` features; small feature ids are the frequent ones.

    Args:
        rows: n.
        dimension: d.
        features: a row.
        buckets: B.
        seed: of all that is random.
        most_labels: of a row; it has one at least.
    """
    random = np.random.default_rng(seed)
    # Half of what is drawn falls on a seventieth of the features, as words do.
    drawn = dimension * random.random((rows, features)) ** 6
    ids = drawn.astype(np.int32).reshape(-1)
    offsets = np.arange(0, rows * features + 1, features)
    values = random.normal(size=len(ids)).astype(np.float32)
    counts = random.integers(1, most_labels + 1, rows)
    label_offsets = np.concatenate([[0], counts.cumsum()])
    labels = random.integers(0, buckets, counts.sum()).astype(np.int32)
    labels = labels[np.lexsort((labels, np.repeat(np.arange(rows), counts)))]
    order = np.argsort(ids, kind="stable")
    distinct, starts = np.unique(ids[order], return_index=True)
    return Examples(
        offsets=offsets,
        ids=ids,
        values=values,
        label_offsets=label_offsets,
        buckets=labels,
        scale=np.full(rows, 1 / rows, np.float32),
        features=distinct,
        feature_starts=np.append(starts, len(ids)),
        feature_rows=(order // features).astype(np.int32),
        feature_values=values[order],
    )
