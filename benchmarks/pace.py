"""The pace of a world."""

from __future__ import annotations

import time
from contextlib import suppress

from workers.world import Stopped, World


def seconds_a_step(world: World, warm_up: int, steps: int) -> float:
    """Go on with a world and return the seconds of a step, those of its first steps apart."""
    times: list[float] = []

    def stop() -> bool:
        times.append(time.perf_counter())
        return len(times) > warm_up + steps

    with suppress(Stopped):
        world.train(stop=stop)
    return (times[-1] - times[warm_up]) / (len(times) - 1 - warm_up)
