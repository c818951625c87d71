"""Every check and benchmark that needs a GPU, in one go.

    python3 -m benchmarks.gpu [OUT.json]

Needs a Python with Torch, Triton and numpy, and nothing else of this project's. Checks the
kernels against float64, then times the paper's world (d = 80,000, h = 2,000, B = 20,000, 30
features a row; Medini et al. 2019, section 4.1) beside its roofline. Prints one table, and
writes one JSON where it is told to. Without a GPU it says so, and that is no failure.

The roofline of a step is the longer of two times: its operations at the rate of a large product
in the same precision, and its bytes at the rate of a copy, both measured here. Operations: three
products of (batch, h, B), 6 * batch * h * B. Bytes: of each weight of the head and of its two
moments a read and a write in float32, of its gradient a write and a read and of its copy for
products a write and two reads; the logits written, turned into gradients (two reads, a write)
and read by two products; of each distinct feature's row of the input layer a read, and for its
update a read and a write.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.batches import made_up

DIMENSION, HIDDEN, BUCKETS, FEATURES = 80_000, 2_000, 20_000, 30
BATCHES = (2048, 8192)
QUERIES, WORLDS, EPOCHS = 70_301_884, 32, 1
"""The paper's whole job: its queries, each an example, and R."""
_ROUNDS = 20
_WARM_UP = 5
_STEPS_FROM_DISK = 200


def main() -> None:
    """Run everything, or say why not."""
    if not torch.cuda.is_available():
        print("no GPU here that Torch can use: nothing was measured, and nothing was checked")
        return
    name = torch.cuda.get_device_name()
    # They need Triton, which is there where a GPU is.
    from benchmarks.gpu.checks import LIMITS, checked

    checks = {
        f"{loss}, {precision}": checked(loss, precision, "cuda")
        for loss in ("softmax", "bce")
        for precision in LIMITS
    }
    results = {
        "schema": 1,
        "device": name,
        "torch": torch.__version__,
        "checks": checks,
        "steps": {str(batch): stepped(batch) for batch in BATCHES},
    }
    print(table(results))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=1) + "\n")
    if wrong := [check for check, found in checks.items() if not found["right"]]:
        raise SystemExit(f"expected gradients as in float64, found others: {', '.join(wrong)}")


def stepped(batch: int) -> dict[str, Any]:
    """Return the pace of the paper's world at a batch size, beside its roofline."""
    from benchmarks.gpu.checks import network
    from workers.kernels.gpu_steps import GpuSteps
    from workers.kernels.steps import first_state

    examples = [
        made_up(batch, dimension=DIMENSION, features=FEATURES, buckets=BUCKETS, seed=seed)
        for seed in range(4)
    ]
    bf16 = torch.cuda.is_bf16_supported()
    weights = network(DIMENSION, (HIDDEN, BUCKETS), device="cuda")
    steps = GpuSteps(weights, first_state(weights), loss="softmax", relu=True, bf16=bf16)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        steps.train(examples[count % len(examples)], step=count, input_rate=0.1, rate=1e-3)

    torch.cuda.reset_peak_memory_stats()
    seconds = timed(step)
    peak = torch.cuda.max_memory_allocated()
    number = 2 if bf16 else 4
    distinct = sum(len(each.features) for each in examples) / len(examples)
    operations = 6 * batch * HIDDEN * BUCKETS
    head = HIDDEN * BUCKETS * (6 * 4 + 5 * number)
    moved = round(head + 6 * batch * BUCKETS * number + 3 * distinct * HIDDEN * 4)
    rate = product_rate(torch.bfloat16 if bf16 else torch.float32)
    bandwidth = copy_rate()
    roofline = max(operations / rate, moved / bandwidth)
    hours = QUERIES * EPOCHS * WORLDS * seconds / batch / 3600
    return {
        "precision": "bf16" if bf16 else "fp32",
        "step_ms": round(1000 * seconds, 3),
        "rows_a_second": round(batch / seconds),
        "operations": operations,
        "bytes": moved,
        "teraflops_a_second": round(rate / 1e12, 1),
        "gigabytes_a_second": round(bandwidth / 1e9),
        "roofline_ms": round(1000 * roofline, 3),
        "of_roofline": round(roofline / seconds, 3),
        "peak_bytes": peak,
        "rows_a_second_from_disk": from_disk(batch),
        "gpu_hours_of_the_whole_job": round(hours, 2),
    }


def from_disk(batch: int) -> int | None:
    """Return the pace of the same world on rows from Parquet; None where that cannot be read."""
    try:
        from benchmarks.gpu.disk import rows_a_second
    except ImportError as error:
        print(f"rows from Parquet: not measured, {error}")
        return None
    pace = rows_a_second(
        device="cuda",
        batch=batch,
        steps=_STEPS_FROM_DISK,
        dimension=DIMENSION,
        hidden=HIDDEN,
        buckets=BUCKETS,
        features=FEATURES,
    )
    return round(pace)


def timed(work: Callable[[], None]) -> float:
    """Return the median seconds of `work`, once it is warm."""
    for _ in range(_WARM_UP):
        work()
    seconds = []
    for _ in range(_ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def product_rate(dtype: torch.dtype, side: int = 8192) -> float:
    """Return the operations a second of one large product of random numbers."""
    left, right = (random_matrix(side, dtype) for _ in range(2))
    return float(2 * side**3 / timed(lambda: discard(torch.mm(left, right))))


def random_matrix(side: int, dtype: torch.dtype) -> Tensor:
    """Return a square matrix of random numbers on the GPU."""
    return torch.randn(side, side, device="cuda").to(dtype)


def copy_rate(count: int = 1 << 30) -> float:
    """Return the bytes a second, read and written, of a copy on the GPU."""
    source = torch.ones(count, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * count / timed(lambda: discard(target.copy_(source)))


def discard(_: Tensor) -> None:
    """Take a result that only its making counts of."""


def table(results: dict[str, Any]) -> str:
    """Return the results for people."""
    lines = [f"{results['device']}, Torch {results['torch']}", ""]
    for check, found in results["checks"].items():
        verdict = "right" if found["right"] else "WRONG"
        lines.append(f"{check:16} {verdict}: relative error {found['relative_error']:.1e}")
    head = (
        "batch",
        "step, ms",
        "rows a second",
        "from disk",
        "of the roofline",
        "hours of the job",
    )
    lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for batch, found in results["steps"].items():
        disk = found["rows_a_second_from_disk"]
        lines.append(
            f"| {batch} | {found['step_ms']} | {found['rows_a_second']:,}"
            f" | {'not measured' if disk is None else f'{disk:,}'}"
            f" | {100 * found['of_roofline']:.0f} % | {found['gpu_hours_of_the_whole_job']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
