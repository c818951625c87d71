"""Worlds that go wrong by themselves: not-a-number, and out of memory."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from chaos.looking import Look, hashes
from chaos.training import WORLDS, Source, Training
from chaos.waiting import wait_for
from orchestrator import Ensemble, api
from orchestrator.driving import RunSummary
from tests.cluster.machines import Machines
from tests.orchestrator.builders import recommit

OTHERS = (0, 2)
ROOM = 24 << 20
"""Bytes: some threads' stacks, but no copy of the weights."""


def check_others(summary: RunSummary) -> None:
    """Check that all worlds but world 1 are done and merged."""
    assert (summary.done, list(summary.failed)) == (OTHERS, [1]), summary
    assert summary.ensemble
    members = Ensemble.load(summary.ensemble, verify="full", threads=1).manifest.members
    assert tuple(member.world for member in members) == OTHERS


@pytest.mark.case(
    fault="NaN loss of one world",
    wanted="own budget and advice; the others finish; a partial merge with `min_worlds`",
)
def test_a_world_whose_loss_is_no_number(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    config = source.config(tmp_path / "run", "merge.min_worlds=2", "retry.error=2")
    look = Look(tmp_path / "run")
    with Training(config) as training:
        wait_for("all to train", lambda: all(look.running(w, step=60) for w in range(WORLDS)))
        api.stop(config.run)
        assert training.summary().pending == tuple(range(WORLDS))
    checkpoint = look.run.paths.newest_checkpoint(1)
    assert checkpoint
    folder = look.folder / checkpoint.folder
    weights = load((folder / "model.safetensors").read_bytes())
    bad = {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}
    recommit(folder, {"model.safetensors": save(bad)})
    with Training(config) as training:
        summary = training.summary()
    causes = [cause for cause in look.causes(1) if cause != "stopped"]
    record_property("attempts that met it", len(causes))
    record_property("told", summary.failed[1])
    assert causes == ["error", "error"]
    assert "expected a finite loss, found nan" in summary.failed[1]
    assert "lower optimizer.rate" in summary.failed[1]
    check_others(summary)
    found = hashes(config.run, OTHERS)
    assert found == {world: source.hashes[world] for world in OTHERS}
    record_property("worlds merged", len(OTHERS))
    record_property("same bits", True)


@pytest.mark.case(
    fault="one world's process may have no more memory (RLIMIT_AS)",
    wanted="own budget and advice; the others finish; a partial merge with `min_worlds`",
)
def test_a_world_that_runs_out_of_memory(
    machines: Machines, source: Source, tmp_path: Path, record_property: Any
) -> None:
    # So many weights that the memory for their copy is asked of the system, a second after the
    # first report: what the process has and does not use would hold a smaller one.
    settings = "merge.min_worlds=2", "features.dimension=800000", "runtime.checkpoint_steps=100"
    config = source.config(tmp_path / "run", *settings)
    look = Look(tmp_path / "run")
    with Training(config) as training:
        victim = wait_for("world 1 to train", lambda: look.running(1, step=5))
        status = Path(f"/proc/{victim.process}/status").read_text()
        found = re.search(r"VmSize:\s+(\d+) kB", status)
        assert found
        # Not enough for the copy that its first checkpoint is written from.
        limit = (int(found[1]) << 10) + ROOM
        resource.prlimit(victim.process, resource.RLIMIT_AS, (limit, limit))
        summary = training.summary()
    record_property("counted as", look.causes(1)[0])
    record_property("told", summary.failed.get(1, ""))
    assert look.causes(1) == ["out_of_memory"]
    assert "training.batch_size" in summary.failed[1]
    check_others(summary)
    record_property("worlds merged", len(OTHERS))
