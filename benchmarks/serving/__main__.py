"""How the service answers under load, and what is lost when a replica dies.

    python -m benchmarks.serving [RUN]

Serves the ensemble of `make demo` (or of RUN, whose queries are texts) as `manyworlds serve` does,
on Ray Serve and in one process, beside FastAPI that does nothing on either; 1, 8 and 64 clients of
wrk ask it, on the same machine. Then, while 8 clients ask, another ensemble takes over and a
replica is killed; and last, clients mean harm. Takes seven minutes; QUICK=1 only shows that it
runs.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.serving.hostile import LARGE, LARGE_BYTES, SLOW, harm
from benchmarks.serving.services import kill, memory, replicas, running
from benchmarks.serving.wrk import load
from benchmarks.writing import QUICK, markdown, write_results
from orchestrator import api
from orchestrator.ensemble.artefact import open_artefact
from orchestrator.words import size

CLIENTS = (1, 8, 64)
SECONDS = 2 if QUICK else 15
DISTURBED_SECONDS = 20 if QUICK else 60
"""With another ensemble after a quarter of them, a killed replica after a half."""
QUERIES = 500
K = 10
DEFAULT = "runs/api_search/run"


def main() -> None:
    """Measure all of it."""
    run = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
    if not Path(run, "ensembles", "CURRENT").exists():
        raise SystemExit(f"{run}: expected a merged run, found none; make demo trains one")
    bodies = _bodies(run)
    found = {name: loaded(words, bodies) for name, words in _services(run).items()}
    disturbed = disturb(run, bodies)
    harmed = {name: harmed_by_clients(words, bodies) for name, words in _ours(run).items()}
    told = _told(run)
    write_results(
        "serving",
        {"ensemble": told, "load": found, "disturbed": disturbed, "harmed": harmed},
        table(told, found, disturbed, harmed),
    )


def loaded(words: list[str], bodies: list[str]) -> dict[str, Any]:
    """Return what clients got of a service, by how many there were."""
    with running(words) as (url, process):
        load(url, bodies, clients=8, seconds=2)
        found: dict[str, Any] = {
            str(clients): load(url, bodies, clients=clients, seconds=SECONDS) for clients in CLIENTS
        }
        found["memory"] = [memory(pid) for pid in replicas(process)]
    return found


def disturb(run: str, bodies: list[str]) -> dict[str, Any]:
    """Return what 8 clients got while another ensemble took over and a replica was killed."""
    words = ["orchestrator.cli", "serve", run, "cluster=local", "port=PORT", "replicas=2"]
    with running([*words, "refresh_seconds=0.5"]) as (url, process):
        load(url, bodies, clients=8, seconds=2)
        found: dict[str, Any] = {"memory": [memory(pid) for pid in replicas(process)]}
        asking = threading.Thread(
            target=lambda: found.update(load(url, bodies, clients=8, seconds=DISTURBED_SECONDS))
        )
        asking.start()
        time.sleep(DISTURBED_SECONDS / 4)
        api.merge(run, weights="bf16")
        time.sleep(DISTURBED_SECONDS / 4)
        kill(replicas(process)[0])
        asking.join()
        # The ensemble that it was.
        api.merge(run)
    return found


def harmed_by_clients(words: list[str], bodies: list[str]) -> dict[str, Any]:
    """Return what became of a service that clients meant harm, and of 8 that did not."""
    with running(words) as (url, process):
        load(url, bodies, clients=8, seconds=2)
        return harm(url, process, bodies, SECONDS)


def table(
    told: dict[str, Any],
    found: dict[str, Any],
    disturbed: dict[str, Any],
    harmed: dict[str, Any],
) -> str:
    """Return all of it in words and tables."""
    hostile = [
        [
            name,
            ", ".join(f"{count} x {status}" for status, count in sorted(one["told"].items())),
            size(one["peak"] - one["before"]),
            f"{one['requests a second']:,.0f}",
            one["failed"],
        ]
        for name, one in harmed.items()
    ]
    rows = [
        [
            name,
            clients,
            f"{one[str(clients)]['requests a second']:,.0f}",
            f"{one[str(clients)]['p50, ms']:.1f}",
            f"{one[str(clients)]['p99, ms']:.1f}",
            one[str(clients)]["failed"],
        ]
        for name, one in found.items()
        for clients in CLIENTS
    ]
    shares = [
        [name, len(one), size(one[0]["resident"]), size(sum(part["own"] for part in one))]
        for name, one in [
            *((name, each["memory"]) for name, each in found.items()),
            ("two replicas", disturbed["memory"]),
        ]
    ]
    return "\n".join(
        [
            "# Serving",
            "",
            f"Made by `make bench-serving` (see `benchmarks/serving/`): K = {told['classes']:,},"
            f" {told['worlds']} worlds of {told['buckets']:,} buckets, {size(told['bytes'])} of"
            f" weights; the {K} best classes of one text a request. Clients, service and Ray share"
            " the machine.",
            "",
            *markdown(
                ("service", "clients", "requests a second", "p50, ms", "p99, ms", "failed"), rows
            ),
            "",
            "`nothing` is a FastAPI function that returns an empty list; what it takes is taken by"
            " HTTP, FastAPI and Ray Serve.",
            "",
            "## Another ensemble, and a killed replica",
            "",
            f"Two replicas and 8 clients for {DISTURBED_SECONDS} s, in which the run was merged"
            f" anew in bf16 and then a replica killed: {disturbed['requests']:,} requests,"
            f" {disturbed['failed']} failed; p50 {disturbed['p50, ms']:.1f} ms,"
            f" p99 {disturbed['p99, ms']:.1f} ms.",
            "",
            "## Clients that mean harm",
            "",
            f"{LARGE} that send {size(LARGE_BYTES)} each and {SLOW} that send the beginning of a"
            " body and wait, beside 8 that ask as they should. Memory: of the processes that a"
            " request passes, without the files that they map.",
            "",
            *markdown(
                ("service", "told", "memory grew by", "others, requests a second", "failed"),
                hostile,
            ),
            "",
            "## Memory",
            "",
            *markdown(("service", "processes", "resident, one", "own, all together"), shares),
            "",
            "Own: what several processes map is counted once.",
            "",
        ]
    )


def _services(run: str) -> dict[str, list[str]]:
    bare = ["benchmarks.serving.services"]
    return {
        **_ours(run),
        "nothing on Ray Serve": [*bare, "ray", "PORT"],
        "nothing in one process": [*bare, "alone", "PORT"],
    }


def _ours(run: str) -> dict[str, list[str]]:
    serve = ["orchestrator.cli", "serve", run, "port=PORT"]
    return {
        "manyworlds on Ray Serve": [*serve, "cluster=local"],
        "manyworlds in one process": [*serve, "cluster=none"],
    }


def _bodies(run: str) -> list[str]:
    config = open_artefact(run).manifest.config.data
    held_out = sorted(Path(str(api.status(run).config.data.validation)).glob("*.parquet"))
    texts = pq.read_table(held_out[0], columns=[config.text[0]]).column(0).to_pylist()[:QUERIES]
    return [json.dumps({"texts": [text], "k": K}) for text in texts]


def _told(run: str) -> dict[str, Any]:
    artefact = open_artefact(run)
    config = artefact.manifest.config
    folder = Path(run, "ensembles", artefact.manifest.digest)
    return {
        "classes": config.data.classes,
        "worlds": len(artefact.manifest.members),
        "buckets": config.partition.buckets,
        "bytes": sum(path.stat().st_size for path in folder.glob("world-*")),
    }


if __name__ == "__main__":
    main()
