"""Eight worlds through the one public door, on a small Ray cluster of this file's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util.metrics import Gauge
from safetensors.torch import load_file

from orchestrator import Ensemble, api, train
from orchestrator.config import RunConfig, override
from orchestrator.executors.cluster import connect
from tests.orchestrator.builders import copied, final, named_classes, run_config, write
from tests.workers.builders import bits
from workers import World
from workers.errors import RunError

WORLDS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Hold a cluster of two CPUs, which every run of this file finds there."""
    assert connect("local", {"num_cpus": 2, "num_gpus": 0})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("source")
    names = write(folder / "names.parquet", named_classes())
    return run_config(
        folder,
        f"worlds={WORLDS}",
        f"data.class_names={names}",
        "cluster.address=local",
        # Its world's share of the CPUs, which Ray alone would not give it.
        "runtime.threads=0",
    )


@pytest.fixture(scope="module")
def source(cluster: None, config: RunConfig) -> Path:
    """Return the run, trained on the cluster."""
    summary = train(config)
    assert (summary.done, dict(summary.failed), summary.pending, summary.error) == (
        tuple(range(WORLDS)),
        {},
        (),
        None,
    )
    assert summary.ensemble is not None
    return Path(summary.run)


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to go on with."""
    return copied(source, tmp_path / "run", merged=True)


def attempts(run: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file that an attempt wrote, with the time of its last change."""
    return {
        str(path.relative_to(run)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in run.glob("worlds/*/attempts/**/*")
        if path.is_file()
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("index", range(WORLDS))
def test_a_world_of_the_run_is_the_world_alone(
    source: Path, config: RunConfig, index: int, threads: int
) -> None:
    alone = World(override(config, [f"runtime.threads={threads}"]).world_config(), index)
    alone.train()
    alone.close()
    weights = load_file(final(source, index) / "model.safetensors")
    assert bits(weights) == bits(alone.parameters)


def test_worlds_are_trained_once_and_on_the_cluster(source: Path) -> None:
    nodes = {node["NodeID"][:8] for node in ray.nodes()}  # type: ignore[no-untyped-call]
    for state in api.status(str(source)).states:
        (attempt,) = state.attempts
        assert attempt.cause == "done"
        assert attempt.node is not None
        assert any(node in attempt.node for node in nodes)


def test_the_ensemble_of_the_run_answers(source: Path) -> None:
    ensemble = Ensemble.load(str(source), verify="full", threads=1)
    assert ensemble.worlds == WORLDS
    found = ensemble.predict(["thing5", "thing40 and thing41"], k=3)
    assert found.names == [[f"thing {i}" for i in row] for row in found.ids.tolist()]


def test_training_again_trains_nothing(run: Path, config: RunConfig) -> None:
    before = attempts(run)
    ensemble = (run / "ensembles" / "CURRENT").read_text()
    summary = train(config, overrides=[f"run={run}"])
    assert (summary.done, summary.pending) == (tuple(range(WORLDS)), ())
    assert summary.ensemble == str(run / "ensembles" / ensemble)
    assert attempts(run) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=1", "seed: the run has 0, found 1"),
        ("training.epochs=3", "training.epochs: the run has 2, found 3"),
        ("partition.buckets=32", "partition.buckets: the run has 16, found 32"),
    ],
)
def test_a_run_of_other_settings_is_refused(
    run: Path, config: RunConfig, setting: str, message: str
) -> None:
    before = attempts(run)
    with pytest.raises(RunError, match=message):
        train(config, overrides=[f"run={run}", setting])
    assert attempts(run) == before


def test_a_run_that_grows_trains_the_new_world_alone(
    cluster: None, run: Path, config: RunConfig
) -> None:
    before = attempts(run)
    summary = train(config, overrides=[f"run={run}", "worlds=9"])
    assert summary.done == tuple(range(9))
    after = attempts(run)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[1] for path in after.keys() - before.keys()} == {"008"}
    ensemble = Ensemble.load(str(run), threads=1)
    assert [member.world for member in ensemble.manifest.members] == list(range(9))


def test_the_worlds_are_told_to_the_metrics_of_ray(
    cluster: None,
    run: Path,
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken: list[tuple[str, float]] = []
    record = Gauge.set

    def spy(gauge: Gauge, value: float, tags: dict[str, str]) -> None:
        record(gauge, value, tags)
        taken.append((tags.get("world", tags.get("state", "")), value))

    monkeypatch.setattr(Gauge, "set", spy)
    summary = train(config, overrides=[f"run={run}", "worlds=9"])
    (loss,) = [view.loss for view in api.status(summary.run).views if view.world == 8]
    assert ("8", loss) in taken
    assert ("done", 9) in taken
    assert "observer" not in capsys.readouterr().err


def test_the_run_on_ray_and_in_this_process_merge_to_the_same_ensemble(
    source: Path, config: RunConfig, tmp_path: Path
) -> None:
    overrides = [f"run={tmp_path / 'here'}", "cluster.address=none", "runtime.threads=2"]
    here = Path(train(config, overrides=overrides).run)
    digests = [(run / "ensembles" / "CURRENT").read_text() for run in (source, here)]
    assert digests[0] == digests[1]
