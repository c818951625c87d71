"""What `manyworlds plan` says, beside what then happens, and beside the paper.

    python -m benchmarks.planning

Two shapes are planned with a short calibration and then trained on a local Ray cluster: the hours
and bytes of the plan beside those measured. The job of the paper (Medini et al., NeurIPS 2019,
section 4.2) is planned for the machine that it was trained on. Takes about ten minutes; QUICK=1
only shows that it runs.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.accuracy import JOBS, settings
from benchmarks.datasets import BenchmarkSet, find_sets
from benchmarks.engine.classes import peak_bytes
from benchmarks.generated import product_search
from benchmarks.writing import QUICK, markdown, write_results
from orchestrator import load_config, train
from orchestrator.config import RunConfig, override
from orchestrator.inputs import open_inputs
from orchestrator.plan import Data, Plan, plan, read_machines
from orchestrator.words import duration, size

SECONDS = 2.0 if QUICK else 15.0
GIVEN = ("worlds", "partition.buckets")
PAPER: dict[int, dict[str, Any]] = {
    10_000: {"hours": 31.8, "parameters": 5.77e9, "training": 150e9},
    20_000: {"hours": 34.2, "parameters": 6.4e9, "training": 180e9},
}
"""By B, at R = 32 and ten epochs; bytes of memory in training."""
PAPER_MACHINE = "aws-p3.16xlarge"
PAPER_ROWS, PAPER_FEATURES = 70_000_000, 30


def main() -> None:
    """Measure all of it."""
    shapes = {name: measured(config) for name, config in chosen().items()}
    paper = {str(buckets): planned_paper(buckets) for buckets in PAPER}
    write_results("planning", {"shapes": shapes, "paper": paper}, table(shapes, paper))


def chosen() -> dict[str, RunConfig]:
    """Return the settings of the two shapes."""
    found, left_out = find_sets(["tldr"])
    if left_out:
        raise SystemExit("\n".join(left_out))
    rows = 20_000 if QUICK else 400_000
    products = product_search(f"planning-{rows}", 1_000_000, train=rows, test=1000)
    epochs = 1 if QUICK else 20
    return {
        "tldr, B = 1,647, h = 512": _config(found[0], 4, 1647, f"training.epochs={epochs}"),
        "products, B = 16,384, h = 256": _config(products, 3, 16_384, "model.hidden=[256]"),
    }


def _config(rows: BenchmarkSet, worlds: int, buckets: int, *overrides: str) -> RunConfig:
    job = JOBS["tldr"]
    config = settings(rows, job, "planning", worlds=worlds, buckets=buckets)
    few = [] if QUICK else ["runtime.checkpoint_steps=200"]
    more = ["training.epochs=1"] if QUICK else ["training.epochs=3"]
    return override(config, [*more, "cluster.address=local", *few, *overrides])


def measured(config: RunConfig) -> dict[str, Any]:
    """Return the plan of a run, and what then happened."""
    shutil.rmtree(config.run, ignore_errors=True)
    data = Data.read(config, open_inputs(config))
    told = plan(config, data, [], given=GIVEN, seconds=SECONDS)
    began = time.monotonic()
    summary = train(config)
    seconds = time.monotonic() - began
    if summary.ensemble is None:
        raise SystemExit(summary.error or dict(summary.failed))
    ensemble = sum(path.stat().st_size for path in Path(summary.ensemble).glob("*.safetensors"))
    shutil.rmtree(config.run)
    return {
        "seconds": seconds,
        "planned seconds": 3600 * told.estimates[0].hours,
        "memory": peak_bytes(config.world_config()),
        "planned memory": told.size.memory.total,
        "ensemble": ensemble,
        "planned ensemble": told.size.ensemble_bytes,
        "paces": [asdict(pace) for pace in told.paces],
    }


def planned_paper(buckets: int) -> dict[str, Any]:
    """Return the plan of the paper's job on its machine."""
    told = _paper_plan(buckets)
    (estimate,) = told.estimates
    (whole,) = told.whole_estimates
    return {
        "hours": round(estimate.hours, 1),
        "parameters": told.size.parameters * told.size.worlds,
        "world bytes": told.size.memory.total,
        "ensemble": told.size.ensemble_bytes,
        "on demand": round(estimate.on_demand),
        "one network": {
            "parameters": told.whole.parameters,
            "bytes": told.whole.memory.device,
            "trouble": whole.trouble,
        },
    }


def _paper_plan(buckets: int) -> Plan:
    config = load_config(
        "amazon-50m",
        [
            "run=unnamed",
            "data.train=unnamed",
            f"partition.buckets={buckets}",
            "training.epochs=10",
            "training.precision=fp32",
        ],
    )
    machines = [machine for machine in read_machines() if machine.name == PAPER_MACHINE]
    return plan(config, Data.told(PAPER_ROWS, PAPER_FEATURES), machines, given=GIVEN)


def table(shapes: dict[str, Any], paper: dict[str, Any]) -> str:
    """Return all of it in words and tables."""
    shown = [
        [
            name,
            kind,
            _told(kind, found[f"planned {kind}"]),
            _told(kind, found[kind]),
            f"{found[f'planned {kind}'] / found[kind]:.2f}",
        ]
        for name, found in shapes.items()
        for kind in ("seconds", "memory", "ensemble")
    ]
    rows = [
        [
            f"{int(buckets):,}",
            f"{planned['parameters'] / 1e9:.2f} ({PAPER[int(buckets)]['parameters'] / 1e9:.2f})",
            f"{planned['hours']} ({PAPER[int(buckets)]['hours']})",
            f"{size(32 * planned['world bytes'])} ({size(PAPER[int(buckets)]['training'])})",
            size(planned["ensemble"]),
            f"${planned['on demand']:,}",
        ]
        for buckets, planned in paper.items()
    ]
    one = paper[str(20_000)]["one network"]
    return "\n".join(
        [
            "# The plan, and what then happened",
            "",
            f"Planned with {SECONDS:g} s of calibration, then trained on a local Ray cluster: all"
            " worlds, with Ray's start and the merge. Memory: the peak of one world, its"
            " libraries left out.",
            "",
            *markdown(("shape", "of", "planned", "measured", "planned / measured"), shown),
            "",
            "## The paper's Amazon job",
            "",
            "K = 49.46 million, 70 million rows of 30 features, R = 32, ten epochs, on one"
            f" {PAPER_MACHINE} (eight V100), planned by roofline; in brackets the paper's own"
            " figures. Memory: of all 32 worlds, devices and hosts.",
            "",
            *markdown(
                (
                    "B",
                    "parameters, billions",
                    "hours",
                    "memory in training",
                    "ensemble",
                    "on demand",
                ),
                rows,
            ),
            "",
            "Twice the buckets cost the paper a fourteenth more time, so most of it did not go into"
            " products; the plan counts products and memory traffic alone, and sees a world of"
            " this project, not the paper's.",
            "",
            f"One network over all classes has {one['parameters'] / 1e9:,.0f} billion parameters"
            f" and takes {size(one['bytes'])} in training: it does not fit"
            f" ({one['trouble']}).",
            "",
        ]
    )


def _told(kind: str, value: float) -> str:
    return duration(value) if kind == "seconds" else size(value)


if __name__ == "__main__":
    main()
