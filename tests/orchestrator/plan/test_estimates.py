"""Where a run fits, how long it takes, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config import RunConfig, load, override
from orchestrator.plan import (
    Data,
    MachineType,
    Pace,
    here,
    machines_for,
    on_machines,
    one_vs_all,
    plan,
    read_machines,
    size_of,
)
from orchestrator.plan.estimates import RAY_SECONDS
from workers.errors import ConfigError

DATA = Data.told(1_000_000, 30)
GPUS = MachineType(
    name="four",
    gpu="X",
    gpus=4,
    gpu_memory=40,
    cpus=32,
    memory=200,
    tflops=100,
    bandwidth=1000,
    on_demand=10,
    spot=4,
)
CPUS = MachineType(name="cpus", cpus=32, memory=64, tflops=10, bandwidth=100, on_demand=1)


def config(*settings: str) -> RunConfig:
    """Return the settings of ten worlds over a million classes."""
    base = ["run=a", "data.train=b", "data.classes=1000000", "data.indices=c", "worlds=10"]
    return load(overrides=[*base, "partition.buckets=16384", *settings])


def test_worlds_take_turns_on_the_gpus_and_the_hours_are_paid() -> None:
    found = on_machines(config(), DATA, GPUS)
    assert (found.at_once, found.machines, found.trouble) == (4, 1, "")
    assert found.hours == pytest.approx(3 * found.world_hours)
    assert found.on_demand == pytest.approx(10 * found.hours)
    assert found.spot == pytest.approx(4 * found.hours)
    assert found.source == "roofline"


def test_a_faster_device_and_a_smaller_world_take_less_time() -> None:
    slow = on_machines(config(), DATA, GPUS).world_hours
    faster = replace(GPUS, tflops=300, bandwidth=3000)
    assert on_machines(config(), DATA, faster).world_hours < slow
    assert on_machines(config("partition.buckets=1024"), DATA, GPUS).world_hours < slow
    without_bf16 = replace(GPUS, bf16=False)
    assert on_machines(config(), DATA, without_bf16).world_hours > slow


def test_worlds_on_cpus_share_the_machine() -> None:
    alone = on_machines(config("worlds=1"), DATA, CPUS)
    eight = on_machines(config("worlds=8"), DATA, CPUS)
    assert (alone.at_once, eight.at_once) == (1, 8)
    # All but the start, which is not shared.
    start = 30 / 3600
    assert eight.hours - start == pytest.approx(8 * (alone.hours - start))
    assert eight.spot is None


def test_what_does_not_fit_says_what_it_lacks() -> None:
    wide = config("model.hidden=[65536]")
    assert "GPU: " in on_machines(wide, DATA, GPUS).trouble
    narrow = replace(GPUS, memory=3)
    assert on_machines(config(), DATA, narrow).trouble.startswith("memory: ")


@pytest.mark.parametrize("turns", [1, 2, 3, 10, 40])
def test_as_few_machines_as_end_in_time(turns: int) -> None:
    hours = on_machines(config(), DATA, GPUS).world_hours
    found = machines_for(config(), DATA, GPUS, turns * hours)
    assert found is not None
    assert found.hours <= turns * hours * (1 + 1e-9)
    if found.machines > 1:
        fewer = on_machines(config(), DATA, GPUS, found.machines - 1)
        assert fewer.hours > turns * hours


def test_worlds_on_several_machines_of_cpus_have_more_of_each() -> None:
    one = on_machines(config("worlds=8"), DATA, CPUS)
    four = on_machines(config("worlds=8"), DATA, CPUS, 4)
    start = 30 / 3600
    assert (one.at_once, four.at_once) == (8, 8)
    assert four.hours - start == pytest.approx((one.hours - start) / 4)
    assert four.on_demand == pytest.approx(4 * four.hours)


@pytest.mark.parametrize("times", [1.0, 0.7, 0.5, 0.26])
def test_worlds_on_cpus_end_in_time_on_as_few_machines(times: float) -> None:
    hours = times * on_machines(config("worlds=8"), DATA, CPUS).hours
    found = machines_for(config("worlds=8"), DATA, CPUS, hours)
    assert found is not None
    assert found.hours <= hours
    if found.machines > 1:
        assert on_machines(config("worlds=8"), DATA, CPUS, found.machines - 1).hours > hours
    alone = on_machines(config("worlds=1"), DATA, CPUS).hours
    soonest = machines_for(config("worlds=8"), DATA, CPUS, 1.001 * alone)
    assert soonest is not None
    assert soonest.machines == 8
    assert machines_for(config("worlds=8"), DATA, CPUS, 0.99 * alone) is None


def test_worlds_that_do_not_fit_side_by_side_get_more_machines() -> None:
    one = on_machines(config("worlds=8"), DATA, CPUS)
    size = size_of(config("worlds=8"), DATA, on_gpu=False)
    small = replace(CPUS, memory=3.5 * (size.memory.total / 1e9 + 0.5) / 0.9)
    assert on_machines(config("worlds=8"), DATA, small).trouble.startswith("memory: ")
    found = machines_for(config("worlds=8"), DATA, small, 2 * one.hours)
    assert found is not None
    assert (found.machines, found.at_once, found.trouble) == (3, 8, "")
    nothing = machines_for(config("worlds=8"), DATA, replace(CPUS, memory=0.1), 2 * one.hours)
    assert nothing is not None
    assert nothing.trouble.startswith("memory: ")


def test_no_number_of_machines_makes_a_world_faster() -> None:
    hours = on_machines(config(), DATA, GPUS).world_hours
    assert machines_for(config(), DATA, GPUS, 0.9 * hours) is None


def pace(*, at_once: int, **seconds: float) -> Pace:
    """Return a pace that takes no seconds but those that are told."""
    kinds = ("start_seconds", "step_seconds", "lost_seconds", "write_seconds")
    return Pace(at_once=at_once, threads=1, **{**dict.fromkeys(kinds, 0.0), **seconds})


def hours_of(wanted: RunConfig, *paces: Pace) -> float:
    """Return what is planned here without Ray."""
    wanted = override(wanted, ["cluster.address=none"])
    found = here(wanted, size_of(wanted, DATA, on_gpu=False), paces)
    assert found.source == "measured"
    return found.hours


def test_a_measured_pace_gives_the_hours() -> None:
    wanted = config("worlds=4")
    steps = size_of(wanted, DATA, on_gpu=False).steps
    two = pace(at_once=2, start_seconds=10.0, step_seconds=0.5)
    assert hours_of(wanted, two) == pytest.approx(2 * (10 + 0.5 * steps) / 3600)


def test_the_worlds_of_the_last_turn_have_a_pace_of_their_own() -> None:
    steps = size_of(config(), DATA, on_gpu=False).steps
    two, one = pace(at_once=2, step_seconds=0.5), pace(at_once=1, step_seconds=0.3)
    found = hours_of(config("worlds=5"), two, one)
    assert found == pytest.approx((2 * 0.5 + 0.3) * steps / 3600)


def test_checkpoints_and_weights_and_the_merge_take_time_too() -> None:
    steps = size_of(config(), DATA, on_gpu=False).steps
    wanted = config("worlds=4", f"runtime.checkpoint_steps={(steps - 1) // 3}")
    writing = pace(at_once=2, lost_seconds=1.0, write_seconds=5.0)
    assert hours_of(wanted, writing) == pytest.approx((2 * (3 * 1 + 5) + 4 * 5) / 3600)


def test_ray_takes_time_to_start() -> None:
    size = size_of(config(), DATA, on_gpu=False)
    assert here(config(), size, [pace(at_once=1)]).hours == pytest.approx(RAY_SECONDS / 3600)


def test_answers_after_every_epoch_take_time_too() -> None:
    each = pace(at_once=1, step_seconds=1.0)
    hours = [hours_of(item, each) for item in (config(), config("data.validation=v"))]
    assert hours[0] < hours[1] < 1.1 * hours[0]


def test_one_network_for_all_classes_takes_more_of_everything() -> None:
    wanted = config("worlds=1")
    found = plan(wanted, DATA, [GPUS], given=["worlds", "partition.buckets"])
    (whole,) = found.whole_estimates
    assert found.whole.parameters > 2 * found.size.parameters
    assert whole.hours > found.estimates[0].hours
    huge = replace(wanted, data=replace(wanted.data, classes=100_000_000))
    huge = replace(huge, partition=replace(huge.partition, buckets=100_000_000))
    assert one_vs_all(huge, DATA, GPUS).trouble.startswith("memory: ")


def test_buckets_and_worlds_are_chosen_where_they_are_not_given() -> None:
    free = plan(config(), DATA, [])
    assert (free.config.worlds, free.config.partition.buckets) == (8, 16_384)
    strict = plan(config(), DATA, [], most_deviation=0.001)
    assert strict.chosen.deviation <= 0.001
    assert strict.config.worlds == strict.chosen.least > 8
    kept = plan(config("worlds=3"), DATA, [], given=["worlds"])
    assert kept.config.worlds == 3


def test_machines_come_with_the_project() -> None:
    found = read_machines()
    assert {machine.gpus for machine in found} >= {0, 1, 8}
    assert len({machine.name for machine in found}) == len(found)


def test_machines_of_ones_own_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "good: {cpus: 8, memory: 32, tflops: 1, bandwidth: 50, on_demand: 0.3}\n"
        "bad: {cpus: 8, memory: 32, tflop: 1, bandwidth: 50, on_demand: 0.3, gpus: 2}\n"
        "worse: 3\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_machines(str(path))
    message = str(caught.value)
    assert "bad.tflop" in message
    assert "tflops" in message
    assert "worse.expected" in message
    assert "good" not in message
    path.write_text(path.read_text().splitlines()[0])
    assert [machine.name for machine in read_machines(str(path))] == ["good"]
