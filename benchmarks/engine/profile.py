"""Where the time of a training step goes, kernel by kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

from benchmarks.engine.setting import BUCKETS, HIDDEN, STEPS
from benchmarks.engine.steps import Trainer
from workers.config import WorldConfig
from workers.kernels import cpu, cpu_steps
from workers.kernels.steps import Examples
from workers.threads import Pool

_KERNELS = {
    (cpu, "embedding_bag"): "embedding-bag",
    (cpu_steps, "softmax_gradient"): "logits to gradient and loss",
    (cpu, "adagrad_rows"): "Adagrad on the input layer, its gradient included",
    (cpu, "adam_matrix"): "Adam on the head",
    (cpu, "adam_bias"): "biases",
}
_PRODUCTS = {
    BUCKETS: "product: logits",
    HIDDEN: "product: gradient of the embedding",
}


def profiled(config: WorldConfig, examples: Sequence[Examples], pool: Pool) -> dict[str, Any]:
    """Return the milliseconds of a step that all threads together spend in each kernel."""
    with watched() as seconds:
        trainer = Trainer(config, examples, pool)
        trainer.seconds(STEPS)
        seconds.clear()
        wall = trainer.seconds(STEPS)
    each = {name: 1000 * spent / STEPS for name, spent in seconds.items()}
    each["waiting, and Python between kernels"] = 1000 * wall * pool.threads - sum(each.values())
    return {name: round(each[name], 2) for name in sorted(each, key=lambda name: -each[name])}


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Time every call of a kernel or a product, in whichever thread it runs."""
    seconds: dict[str, float] = {}
    lock = Lock()

    def timed(function: Callable[..., Any], name: Callable[[Any], str]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **named)
            spent = time.perf_counter() - began
            with lock:
                key = name(result)
                seconds[key] = seconds.get(key, 0.0) + spent
            return result

        return call

    def always(name: str) -> Callable[[Any], str]:
        return lambda _: name

    def product(result: torch.Tensor) -> str:
        if result.shape[0] == cpu_steps.BUCKETS:
            return "product: gradient of the head"
        return _PRODUCTS[result.shape[1]]

    kept = {(place, name): getattr(place, name) for place, name in _KERNELS}
    mm = torch.mm
    try:
        for (place, name), function in kept.items():
            setattr(place, name, timed(function, always(_KERNELS[place, name])))
        torch.mm = timed(mm, product)
        yield seconds
    finally:
        torch.mm = mm
        for (place, name), function in kept.items():
            setattr(place, name, function)
