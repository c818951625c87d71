"""The k best classes of each query where scores are Torch tensors: on a GPU, or anywhere.

Gives what `full` and `candidates` give for the same scores, to the last bit: sums are taken in the
order of the worlds, and a class competes as one 64-bit number, its score's bits above its id's,
so that equal scores go to the lower id whatever the order in which a device selects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.ensemble.candidates import BUCKETS
from orchestrator.ensemble.combiners import EPSILON, Combiner
from orchestrator.ensemble.lookup import BucketLookup
from orchestrator.ensemble.retrieval import (
    ClassLists,
    Floats,
    Ids,
    check_lists,
    finished,
    prepared,
)
from workers.errors import DataError
from workers.threads import spans

WORK_BYTES = 1 << 30
"""Of scores and buckets that are held at a time."""
_LOWEST = -(1 << 63)
_ID = (1 << 32) - 1


def transformed(probabilities: Sequence[Tensor], combiner: Combiner) -> Tensor:
    """Return the worlds' (n, B) probabilities as the (R, n, B) scores that are looked up."""
    scores = torch.stack(list(probabilities))
    return scores.add_(float(EPSILON)).log_() if combiner.name == "log" else scores


class DeviceLookup:
    """The buckets of any classes in R worlds, on a device.

    Args:
        lookup: the same on the host.
        device: where.
        most_bytes: that the buckets of all classes may take there; else they are computed.
    """

    def __init__(self, lookup: BucketLookup, device: str, *, most_bytes: int) -> None:
        self.host = lookup
        self.device = torch.device(device)
        worlds = len(lookup.partitions)
        if lookup.classes > _ID:
            raise DataError(
                f"classes: expected at most {_ID:,} to search on {device}, found"
                f" {lookup.classes:,}; load the ensemble with device=cpu"
            )
        # Torch indexes by no 16-bit number, and has few operations for unsigned ones.
        kind = torch.int16 if lookup.buckets <= 1 << 16 else torch.int32
        self._stored: Tensor | None = None
        if lookup.classes * worlds * kind.itemsize <= most_bytes:
            self._stored = torch.empty((worlds, lookup.classes), dtype=kind, device=self.device)
            for start, stop in spans(lookup.classes, 1 << 22):
                self._stored[:, start:stop] = self._computed(start, stop, worlds).to(kind)

    def rows(self, start: int, stop: int, worlds: int) -> Tensor:
        """Return the buckets of the classes [start, stop), (worlds, stop - start) int64."""
        if self._stored is None:
            return self._computed(start, stop, worlds)
        rows = self._stored[:worlds, start:stop].long()
        return rows & 0xFFFF if self._stored.dtype == torch.int16 else rows

    def rows_of(self, classes: Tensor, worlds: int) -> Tensor:
        """Return the buckets of some classes (int64), (worlds, n) int64."""
        return torch.stack([part.buckets_of(classes) for part in self.host.partitions[:worlds]])

    def _computed(self, start: int, stop: int, worlds: int) -> Tensor:
        return self.rows_of(torch.arange(start, stop, device=self.device), worlds)


def full(
    scores: Tensor,
    lookup: DeviceLookup,
    k: int,
    combiner: Combiner,
    *,
    leave_out: ClassLists | None = None,
    keep_to: ClassLists | None = None,
    work_bytes: int = WORK_BYTES,
) -> tuple[Ids, Floats]:
    """Return what `retrieval.full` returns.

    Args:
        scores: (R, n, B) float32, finite, on the lookup's device.
        lookup: where the classes are in `scores`.
        k: how many classes.
        combiner: whose reduction and finish to apply.
        leave_out: classes that each query must not be given.
        keep_to: the only classes that each query may be given, an empty list meaning none.
        work_bytes: of scores and buckets that are held at a time.

    Returns:
        Class ids (n, k) int64 and finished scores (n, k) float32, best first, padded with -1
        and -inf where fewer than k classes are allowed; on the host.

    Raises:
        DataError: if `scores`, `k` or a list does not fit the lookup.
    """
    check_lists(keep_to, scores.shape[1], lookup.host.classes)
    hidden, ids, found = prepared(scores, lookup.host, k, leave_out)
    worlds, queries, _ = scores.shape
    best = torch.full((queries, k), _LOWEST, device=scores.device)
    if keep_to is not None:
        for query in range(queries):
            kept = np.setdiff1d(
                keep_to.of(query, query + 1).classes, hidden.of(query, query + 1).classes
            )
            best[query] = _best_of(scores[:, query], lookup, kept, k, combiner)
    elif queries:
        # A score, its key, and what is sorted for a median; and buckets, while they are made.
        held = 24 + (8 * worlds if combiner.reduction == "median" else 0)
        size = max(1, work_bytes // (held * queries + 16 * worlds))
        for start, stop in spans(lookup.host.classes, size):
            values = _reduced(scores, lookup.rows(start, stop, worlds), combiner)
            keys = _keys(values, torch.arange(start, stop, device=scores.device))
            _hide(keys, hidden, start, stop)
            some = keys.topk(min(k, stop - start), dim=1).values
            best = torch.cat([best, some], dim=1).topk(k, dim=1).values
    _unpack(best, ids, found)
    return finished(ids, found, lookup.host, worlds, combiner)


def candidates(
    scores: Tensor,
    lookup: DeviceLookup,
    k: int,
    combiner: Combiner,
    *,
    buckets: int = BUCKETS,
    leave_out: ClassLists | None = None,
    keep_to: ClassLists | None = None,
) -> tuple[Ids, Floats]:
    """Return what `candidates.candidates` returns; for the rest see `full`.

    Args: as for `full`, and
        buckets: m, of each world; doubled for a query until k classes are named.
    """
    if buckets < 1:
        raise DataError(f"buckets: expected at least 1 of each world, found {buckets}")
    if keep_to is not None or not lookup.host.invertible:
        return full(scores, lookup, k, combiner, leave_out=leave_out, keep_to=keep_to)
    hidden, ids, found = prepared(scores, lookup.host, k, leave_out)
    worlds, queries, _ = scores.shape
    best = torch.full((queries, k), _LOWEST, device=scores.device)
    for query in range(queries):
        excluded = torch.from_numpy(hidden.of(query, query + 1).classes).to(scores.device)
        mine, few = scores[:, query], min(buckets, lookup.host.buckets)
        named = _named(mine, lookup, few, excluded)
        while len(named) < k and few < lookup.host.buckets:
            few = min(2 * few, lookup.host.buckets)
            named = _named(mine, lookup, few, excluded)
        best[query] = _best_of(mine, lookup, named, k, combiner)
    _unpack(best, ids, found)
    return finished(ids, found, lookup.host, worlds, combiner)


def _named(scores: Tensor, lookup: DeviceLookup, buckets: int, excluded: Tensor) -> Tensor:
    """Return the allowed classes in the best buckets of each world, of one query's (R, B)."""
    numbers = torch.arange(scores.shape[1], device=scores.device)
    chosen = _ids(_keys(scores, numbers).topk(buckets, dim=1).values)
    parts = zip(lookup.host.partitions, chosen, strict=False)
    named = torch.unique(torch.cat([part.classes_on_device(mine) for part, mine in parts]))
    allowed: Tensor = named[~torch.isin(named, excluded)]
    return allowed


def _best_of(
    scores: Tensor, lookup: DeviceLookup, classes: Tensor | NDArray[np.int64], k: int, by: Combiner
) -> Tensor:
    """Return the (k,) highest keys of one query's scores (R, B) of some distinct classes."""
    some = torch.as_tensor(classes, device=scores.device)
    rows = lookup.rows_of(some, len(scores))
    keys = _keys(_reduced(scores[:, None], rows, by), some)[0]
    padding = torch.full((max(0, k - len(keys)),), _LOWEST, device=scores.device)
    return torch.cat([keys, padding]).topk(k).values


def _reduced(scores: Tensor, rows: Tensor, combiner: Combiner) -> Tensor:
    """Return the reduced scores (n, C) of C classes with buckets (R, C), as `Combiner.reduce`."""
    if combiner.reduction == "median":
        values = torch.stack([mine[:, row] for mine, row in zip(scores, rows, strict=True)])
        ordered, middle = values.sort(dim=0).values, len(rows) // 2
        return (ordered[middle] + ordered[-1 - middle]) * 0.5
    total = scores[0][:, rows[0]]
    for mine, row in zip(scores[1:], rows[1:], strict=True):
        values = mine[:, row]
        if combiner.reduction == "min":
            torch.minimum(total, values, out=total)
        else:
            total += values
    return total


def _keys(values: Tensor, ids: Tensor) -> Tensor:
    """Return (n, C) int64 whose order is that of (score ascending, id descending)."""
    # Zeros have two signs, and one place in the order.
    bits = (values + 0.0).view(torch.int32)
    # Of negative numbers the larger has the smaller bits.
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys: Tensor = (ordered.long() << 32) | (_ID - ids)
    return keys


def _ids(keys: Tensor) -> Tensor:
    return _ID - (keys & _ID)


def _unpack(keys: Tensor, ids: Ids, found: Floats) -> None:
    """Write the ids and scores of (n, k) keys, best first; nothing where there is none."""
    there = (keys != _LOWEST).cpu().numpy()
    ordered = (keys >> 32).to(torch.int32)
    values = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32)
    ids[there] = _ids(keys).cpu().numpy()[there]
    found[there] = values.cpu().numpy()[there]


def _hide(keys: Tensor, hidden: ClassLists, start: int, stop: int) -> None:
    """Take the hidden classes out of the keys of the classes [start, stop)."""
    here = (hidden.classes >= start) & (hidden.classes < stop)
    if here.any():
        owners = np.repeat(np.arange(len(keys)), np.diff(hidden.offsets))[here]
        keys[
            torch.from_numpy(owners).to(keys.device),
            torch.from_numpy(hidden.classes[here] - start).to(keys.device),
        ] = _LOWEST
