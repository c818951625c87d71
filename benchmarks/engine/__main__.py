"""How near a training step comes to what the machine can do.

    python -m benchmarks.engine

On rows of omw (text; d = 131,072, h = 256, B = 4,096, batch 1,024), all in one run:

- the step against its floor: the products' operations at the rate of one large product, and the
  bytes that must move at the rate of a copy, both measured in the same rounds;
- the step against the same network and loss in plain Torch;
- steps on rows that come from Parquet and text, against steps on batches held in memory;
- the step and the memory of a world as K grows from 10^4 to 10^8;
- the memory of worlds of several sizes, against `workers.memory.predict`.

Every time is taken in turn, round after round; what is quoted is the median of the rounds'
ratios. Writes benchmarks/results/engine.json and engine.md; QUICK=1 only shows that it runs.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.datasets import find_sets
from benchmarks.engine.classes import memory_beside_prediction, over_classes
from benchmarks.engine.profile import profiled
from benchmarks.engine.setting import world_config
from benchmarks.engine.steps import from_disk, prepared, steps_beside_floor_and_torch
from benchmarks.writing import markdown, write_results
from workers.threads import Pool


def main() -> None:
    """Measure, and write the table."""
    found, left_out = find_sets(["omw", "debian_depends"])
    if len(found) < 2:
        raise SystemExit("\n".join(left_out))
    omw, debian = found
    config = world_config(omw)
    with closing(Pool()) as pool:
        examples = prepared(config)
        results = {
            "step": steps_beside_floor_and_torch(config, examples, pool),
            "profile": profiled(config, examples, pool),
            "from_disk": from_disk(config, examples, pool),
        }
    with tempfile.TemporaryDirectory() as folder:
        results["classes"] = over_classes(omw, Path(folder))
    results["memory"] = memory_beside_prediction(omw, debian)
    write_results("engine", results, table(results))


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    step, disk, classes = results["step"], results["from_disk"], results["classes"]
    rows = [
        ("a training step over its floor", f"{step['step_over_floor']:.2f}", "at most 1.5"),
        ("the same over its products alone", f"{step['step_over_products']:.2f}", ""),
        ("plain Torch over a training step", f"{step['torch_over_step']:.2f}", "at least 3"),
        (
            "plain Torch over the floor, which is the most that can be",
            f"{step['torch_over_floor']:.2f}",
            "",
        ),
        (
            "throughput from Parquet and text, of that from memory",
            f"{100 * disk['throughput']:.0f} %",
            "at least 90 %",
        ),
    ]
    flat = [
        (f"{int(k):,}", found["step_ms"], f"{found['step_ratio']:.3f}", f"{found['bytes']:,}")
        for k, found in classes.items()
    ]
    memory = [
        (name, f"{found['bytes']:,}", f"{found['predicted']:,}", f"{found['ratio']:.2f}")
        for name, found in results["memory"].items()
    ]
    return "\n".join(
        [
            "# The training engine",
            "",
            "Made by `make bench-engine`: omw's texts, d = 131,072, h = 256, B = 4,096, batch"
            " 1,024; medians over rounds in which all is measured in turn.",
            "",
            *markdown(("measure", "found", "wanted"), rows),
            "",
            f"A step takes {step['step_ms']} ms ({step['rows_a_second']:,} rows a second);"
            f" its floor is {step['floor_ms']} ms: {step['operations'] / 1e9:.2f} GFLOP of"
            f" {step['products_in']} products at {step['gigaflops_a_second']} GFLOP a second, and"
            f" {step['bytes'] / 1e6:.0f} MB at {step['gigabytes_a_second']} GB a second. Plain"
            f" Torch takes {step['torch_ms']} ms.",
            "",
            "Where the time of a step goes, in milliseconds of all threads together:",
            "",
            *markdown(("kernel", "ms"), list(results["profile"].items())),
            "",
            "The same rows with labels of K classes; bytes are what a process grows by:",
            "",
            *markdown(("K", "step, ms", "of the first", "peak bytes"), flat),
            "",
            "Memory, where what is not said is as above:",
            "",
            *markdown(("world", "peak bytes", "predicted", "ratio"), memory),
            "",
        ]
    )


if __name__ == "__main__":
    main()
