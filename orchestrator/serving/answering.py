"""Answers of the ensemble that is served at the moment, and how its worlds came to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.ensemble.artefact import open_artefact, served
from orchestrator.ensemble.ensemble import Ensemble, check_mode
from orchestrator.ensemble.retrieval import chance
from orchestrator.serving import copies
from workers.config import DataConfig
from workers.errors import DataError, ManyworldsError
from workers.storage import Storage

ColumnKind = Literal["text", "indices", "values", "dense"]
"""What a column holds: a text, ids, as many numbers as ids, or always as many numbers."""
_TYPES = {
    "text": pa.large_string(),
    "indices": pa.list_(pa.int64()),
    "values": pa.list_(pa.float32()),
}


@dataclass(frozen=True, slots=True)
class Way:
    """How queries are to be answered; those of the same way are answered together."""

    k: int
    combiner: str | None = None
    """None: the ensemble's own."""
    mode: str = "exact"
    worlds: int | None = None
    """None: all."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What an ensemble answered to some queries."""

    ensemble: str
    """Its digest."""
    rows: list[list[dict[str, Any]]]
    """For each query its classes, best first, as `id`, `name` and `score`."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one world says of a class for a query."""

    world: int
    bucket: int
    """That the class is in."""
    probability: float
    """Of that bucket."""
    rank: int
    """Of that bucket among the world's B, from 1; as good ones share the better rank."""
    sharing: int
    """Classes of that bucket, this one among them."""
    neighbours: list[dict[str, Any]]
    """Some others of that bucket, as `id` and `name`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the worlds voted on a class for a query."""

    ensemble: str
    class_id: int
    name: str | None
    score: float
    """By the combiner, over the worlds that were asked."""
    combiner: str
    buckets: int
    """Of each world."""
    votes: list[Vote]


class Opened(NamedTuple):
    """An ensemble, ready to answer."""

    ensemble: Ensemble
    digest: str
    """Kept, for it is made of all of the manifest, which takes longer than many an answer."""


class Answerer:
    """The ensemble of a run, and the next one as soon as there is one.

    Requests are answered by whatever ensemble was current when they began; nothing waits while the
    next one is opened. Not for several threads at a time, `refresh` apart.

    Args:
        uri: a run, or an ensemble, which has no next one.
        threads: compute threads.
        device: `cpu` or `cuda`.
        folder: of copies of ensembles from object stores; None: as `copies.local` has it.

    Raises:
        StorageError: there is none that can be opened.
    """

    def __init__(
        self, uri: str, *, threads: int = 0, device: str = "auto", folder: str | None = None
    ) -> None:
        self.trouble: str | None = None
        """Why the newest ensemble of the run is not served, or None."""
        self._uri = uri
        self._threads = threads
        self._device = device
        self._folder = folder
        self._run = Storage(uri)
        self._current = self._open()

    @property
    def current(self) -> Opened:
        """The ensemble that answers now."""
        return self._current

    @property
    def ensemble(self) -> Ensemble:
        """The current one."""
        return self._current.ensemble

    @property
    def digest(self) -> str:
        """The name of the current one."""
        return self._current.digest

    def refresh(self) -> bool:
        """Open the run's current ensemble if it is another one; return whether it took over.

        One that cannot be opened leaves the old one where it is, with the reason in `trouble`.
        """
        try:
            digest = served(self._run)
            if digest is None or digest == self.digest:
                self.trouble = None
                return False
            old, self._current = self.digest, self._open()
            if not self._run.is_local:
                copies.forget(old, self._folder)
        except Exception as error:
            # Whatever it is, a GPU without room for two among it: the old one goes on answering.
            self.trouble = str(error) if isinstance(error, ManyworldsError) else repr(error)
            return False
        self.trouble = None
        return True

    def check(self, way: Way) -> None:
        """Raise what `predict` would of the way alone.

        Raises:
            DataError: the ensemble has fewer worlds.
            ConfigError: an unknown combiner or mode.
        """
        self.ensemble.combiner(way.combiner)
        self.ensemble.check_worlds(way.worlds)
        check_mode(way.mode)

    def predict(self, queries: pa.Table, way: Way) -> Answers:
        """Return the k best classes of each query.

        Raises:
            DataError, ConfigError: as `Ensemble.predict`.
        """
        ensemble, digest = self._current
        found = ensemble.predict(
            queries, min(way.k, ensemble.classes), combiner=way.combiner, mode=way.mode,
            worlds=way.worlds,
        )  # fmt: skip
        names: Sequence[Sequence[str | None]] = found.names or _unnamed(found.ids)
        rows = [
            [
                {"id": int(one), "name": name, "score": float(score)}
                # Fewer names than ids: -1 stands for no class.
                for one, score, name in zip(ids, scores, row, strict=False)
            ]
            for ids, scores, row in zip(found.ids, found.scores, names, strict=True)
        ]
        return Answers(digest, rows)

    def table(self, queries: Sequence[str | Mapping[str, Any]]) -> pa.Table:
        """Return texts, or rows of the input columns of training, as a checked table.

        Raises:
            DataError: they lack a column, or hold what is none of its type.
        """
        texts = [query for query in queries if isinstance(query, str)]
        if texts:
            return self.ensemble.table(texts)
        rows = [query for query in queries if not isinstance(query, str)]
        kinds = columns(self.ensemble.config.data)
        try:
            table = pa.table(
                {name: _column([row[name] for row in rows], kind) for name, kind in kinds.items()}
            )
        except KeyError as error:
            raise DataError(
                f"rows: expected {', '.join(kinds)} in each, found one without {error}"
            ) from None
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise DataError(
                f"rows: expected values that fit to their columns, found others: {error}"
            ) from error
        return self.ensemble.table(table)

    def explain(
        self,
        query: pa.Table,
        wanted: int | str,
        *,
        combiner: str | None = None,
        worlds: int | None = None,
        neighbours: int = 6,
    ) -> Explanation:
        """Return how each world voted on a class.

        Args:
            query: one row.
            wanted: the class's id or name.
            combiner: None: the ensemble's own.
            worlds: ask only the first of them; None: all.
            neighbours: classes of the same bucket that are named, at most.

        Raises:
            DataError: there is no such class, or the query does not fit.
            ConfigError: for an unknown combiner.
        """
        ensemble, digest = self._current
        one, chosen = self._id(ensemble, wanted), ensemble.combiner(combiner)
        ((_, _, parts),) = ensemble.probabilities(query, worlds)
        probabilities = np.stack([part.cpu().numpy()[0] for part in parts])
        lookup = ensemble.lookup
        buckets = lookup.buckets_of(np.array([one]), len(probabilities))[:, 0].astype(np.int64)
        own = probabilities[np.arange(len(buckets)), buckets][:, None]
        scores = chosen.combine(own, chance(lookup.partitions))
        votes = [
            self._vote(ensemble, world, int(bucket), row, one, neighbours)
            for world, (bucket, row) in enumerate(zip(buckets, probabilities, strict=True))
        ]
        return Explanation(
            ensemble=digest,
            class_id=one,
            name=_name(ensemble, [one])[0],
            score=float(scores[0]),
            combiner=combiner or ensemble.manifest.combiner,
            buckets=ensemble.config.partition.buckets,
            votes=votes,
        )

    def _open(self) -> Opened:
        path = copies.local(open_artefact(self._uri), self._folder)
        found = Ensemble.load(path, threads=self._threads, device=self._device)
        # Read now, not by the first request.
        _ = found.names, found.lookup
        return Opened(found, found.manifest.digest)

    def _vote(
        self,
        ensemble: Ensemble,
        place: int,
        bucket: int,
        probabilities: Any,
        one: int,
        neighbours: int,
    ) -> Vote:
        sharing = ensemble.lookup.partitions[place].classes_of(bucket)
        others = sharing[sharing != one][:neighbours].tolist()
        names = _name(ensemble, others)
        probability = float(probabilities[bucket])
        return Vote(
            world=ensemble.manifest.members[place].world,
            bucket=bucket,
            probability=probability,
            rank=1 + int((probabilities > probabilities[bucket]).sum()),
            sharing=len(sharing),
            neighbours=[{"id": i, "name": n} for i, n in zip(others, names, strict=True)],
        )

    @staticmethod
    def _id(ensemble: Ensemble, wanted: int | str) -> int:
        if isinstance(wanted, str):
            if ensemble.names is None:
                raise DataError("name: expected class_id, as classes have no names, found a name")
            # Not by `ids`, whose advice on a name that is not there looks at all of them for long.
            found = pc.index(ensemble.names.names, wanted).as_py()
            if found < 0:
                raise DataError(f"name: expected the name of a class, found {wanted[:80]!r}")
            return int(found)
        if not 0 <= wanted < ensemble.classes:
            raise DataError(f"class_id: expected 0 to {ensemble.classes - 1:,}, found {wanted}")
        return wanted


def columns(data: DataConfig) -> dict[str, ColumnKind]:
    """Return what each input column of a row holds, by its name."""
    others: dict[str | None, ColumnKind] = {
        data.indices: "indices",
        data.values: "values",
        data.dense: "dense",
    }
    return {
        name: "text" if name in data.text else others[name] for name in data.columns(labels=False)
    }


def _column(values: list[Any], kind: ColumnKind) -> pa.Array:
    """Return an input column of the type that training's had."""
    if kind == "dense":
        # One that is shorter or longer than the first is refused.
        return pa.array(values, pa.list_(pa.float32(), len(values[0] or ())))
    return pa.array(values, _TYPES[kind])


def _name(ensemble: Ensemble, ids: Sequence[int]) -> list[str | None]:
    if ensemble.names is None:
        return [None] * len(ids)
    return list(ensemble.names.of(np.array([ids], np.int64))[0])


def _unnamed(ids: Any) -> list[list[None]]:
    return [[None] * int((row >= 0).sum()) for row in ids]
