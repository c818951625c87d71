"""What narrower weights cost in accuracy, and save in bytes and time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers.clock import latency
from benchmarks.retrieval.trained import Search
from orchestrator import Ensemble
from orchestrator.ensemble import evaluate
from workers.precision import PRECISIONS

ASKED = 210
KS = (1, 10, 100)


def precisions(search: Search, *, rows: int) -> dict[str, Any]:
    """Return metrics on test rows, bytes, and times to bucket scores, for each precision."""
    texts = search.queries(ASKED)
    found: dict[str, Any] = {}
    for weights in PRECISIONS:
        folder = search.merged(weights=weights)
        ensemble = Ensemble.load(folder)
        metrics = evaluate(
            ensemble,
            str(search.products.test),
            ks=KS,
            combiners=["mean", "log"],
            worlds=[ensemble.worlds],
            limit=rows,
        ).metrics
        times = latency(partial(scored, ensemble), texts)
        found[weights] = {
            "rows": rows,
            "bytes": sum(path.stat().st_size for path in Path(folder).glob("world-*")),
            "scores_p50_ms": times["p50_ms"],
            **{
                name: {key: round(100 * value, 2) for key, value in values.items()}
                for (name, _), values in metrics.items()
            },
        }
    return found


def scored(ensemble: Ensemble, text: str) -> None:
    """Take one query to bucket probabilities in all worlds."""
    for _ in ensemble.probabilities(ensemble.table([text])):
        pass
