"""What `manyworlds report` writes, and what it tells of a run."""

from __future__ import annotations

import html
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import RunConfig, load
from orchestrator.lease import Lease
from orchestrator.report import charts
from orchestrator.report.facts import Facts, gather
from orchestrator.report.page import page
from orchestrator.run import Run
from orchestrator.state import WorldState
from tests.orchestrator.builders import attempt, begun, run_config, searches, trained, write
from tests.orchestrator.command import manyworlds
from tests.orchestrator.reported import HOSTILE, STEPS, clock, eventful, measure, tell
from tests.workers.object_store import ENVIRONMENT, s3_server
from workers.storage import RunPaths

NOW = datetime(2026, 1, 1, 13, tzinfo=UTC)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return eventful(tmp_path_factory.mktemp("reported"))


def told(run: Run) -> str:
    """Return the words of a run's report, without what marks them up."""
    shown = re.sub(r"<style>.*?</style>", "", page(gather(run.uri, NOW)), flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", shown)))


def facts(run: Run) -> Facts:
    return gather(run.uri, NOW)


def test_the_verb_writes_one_file_and_names_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = manyworlds("report", run.uri)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{tmp_path / 'report.html'}\nopen it in a browser")
    assert ["resume", run.uri] in ended.next_commands
    first = (tmp_path / "report.html").read_text()
    assert manyworlds("report", run.uri, f"out={tmp_path}/new/other.html").code == 0
    assert first.startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "report.html"]
    assert (tmp_path / "new" / "other.html").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("out=", "out: expected the file to write, found nothing"),
        ("output=a.html", "output=a.html: expected out=FILE"),
        ("a.html", "a.html: expected out=FILE"),
        ("out=.", "out: expected the file to write, found the folder ."),
    ],
)
def test_the_verb_refuses_what_names_no_file(run: Run, word: str, message: str) -> None:
    ended = manyworlds("report", run.uri, word)
    assert ended.code == 2
    assert message in ended.err


def test_it_refuses_where_there_is_no_run(tmp_path: Path) -> None:
    ended = manyworlds("report", str(tmp_path), f"out={tmp_path}/report.html")
    assert ended.code == 2
    assert "expected a run, found no identity.yaml" in ended.err
    assert not (tmp_path / "report.html").exists()


def test_it_tells_what_is_trained_and_how_far_it_is(run: Run) -> None:
    words = told(run)
    assert "Unfinished, and nobody drives it · as of 2026-01-01 13:00 UTC" in words
    assert "worlds done5 / 81 failed, 2 pending" in words
    assert "classes64in 16 buckets, 4.0 each" in words
    assert "200 rows in 1 shard" in words
    assert "256 → 8 → 16, linear, softmax; 2,200 parameters a world" in words
    assert "time11 min 00 s49 min 00 s of worlds" in words


def test_it_tells_how_every_attempt_ended(run: Run) -> None:
    found = page(facts(run))
    described = (
        "12 attempts at 8 worlds over 11 min 00 s: 5 done, 1 stopped, 1 preempted, 1 error,"
        " 1 out of memory, 1 hung, 1 data, 1 cut off"
    )
    assert described in found
    words = told(run)
    assert "7 attempts did not reach the end" in words
    assert "cut off 1" in words
    assert "a smaller batch_size needs less" in words
    assert f"manyworlds resume {run.uri} --worlds 4" in words


def test_what_runs_is_no_end(run: Run) -> None:
    with Lease(run.storage):
        found = facts(run)
        assert "Training, driven by process" in told(run)
    (runs,) = (span for span in found.when.spans if span.world == 6)
    assert runs.cause == "running"
    assert found.when.ended == NOW
    (lost,) = (span for span in facts(run).when.spans if span.world == 6)
    assert (lost.cause, lost.seconds) == ("cut off", 120.0)


def test_what_waits_for_a_place_takes_no_time(tmp_path: Path) -> None:
    run = eventful(tmp_path)
    run.save(WorldState(index=7, status="running", attempts=(attempt("01-ww", None),)))
    with Lease(run.storage):
        assert 7 not in {span.world for span in facts(run).when.spans}
        assert "1 running, 1 waiting, 1 failed" in told(run)


def test_a_driver_of_which_nothing_is_known_is_not_said_to_train(run: Run) -> None:
    with Lease(run.storage):
        values = run.storage.read_json(RunPaths.lease)
        run.storage.write_json(RunPaths.lease, {**values, "boot": "elsewhere"})
        assert "; whether it is alive, only its own host can tell · as of" in told(run)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("https://hooks.example.com/hush", "not shown"),
        ("notify --key hush", "not shown"),
        ("env:HOOK", "env:HOOK"),
    ],
)
def test_what_may_hold_credentials_is_not_shown(tmp_path: Path, target: str, shown: str) -> None:
    made = begun(tmp_path, f"watch.notify={target}")
    found, words = page(facts(made)), told(made)
    assert "hush" not in found
    assert f"watch.notify{shown}" in words
    named = f"watch.notify={target}" in words
    assert named == (shown != "not shown")
    assert ("watch.notify is left out" in words) == (not named)


def test_the_median_pace_of_two_worlds_is_between_them(tmp_path: Path) -> None:
    made = begun(tmp_path)
    for world in (0, 2):
        ended = attempt("01-aa", "done", started_at=clock(0), ended_at=clock(10))
        made.save(WorldState(index=world, status="done", attempts=(ended,), winner="01-aa"))
        tell(made, world, "01-aa", [5, 10])
    # Those of 100 and 102 rows a second.
    assert "rows a second of 2 worlds: 100 to 102, median 101" in page(facts(made))


def test_the_later_attempt_at_a_step_counts(run: Run, tmp_path: Path) -> None:
    made = begun(tmp_path)
    both = (attempt("01-aa", "error", steps=10), attempt("02-bb", "done"))
    made.save(WorldState(index=1, status="done", attempts=both, winner="02-bb"))
    tell(made, 1, "01-aa", [5, 10, 15, 20], loss=9.0)
    tell(made, 1, "02-bb", [15, 20, 40], loss=1.0)
    (curve,) = facts(made).losses.worlds
    assert (curve.world, curve.steps.tolist()) == (1, [5, 10, 15, 20, 40])
    assert curve.values.tolist() == [9.0, 9.0, 1.0, 1.0, 1.0]


def test_the_median_ends_where_most_worlds_do(run: Run) -> None:
    middle = facts(run).losses.median
    assert middle is not None
    assert middle.steps[-1] == STEPS
    at_ten = middle.values[middle.steps.tolist().index(10)]
    assert at_ten == pytest.approx(3.0 - 10 / STEPS + 0.3)


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.save(WorldState(index=0, status="running", attempts=(attempt("01-aa", None),)))
    tell(made, 0, "01-aa", range(1, 5001))
    (curve,) = facts(made).losses.worlds
    assert len(curve.steps) == 200
    assert (curve.steps[0], curve.steps[-1]) == (1, 5000)


def test_a_thousand_worlds_make_no_large_page(tmp_path: Path) -> None:
    made = begun(tmp_path, "worlds=1000")
    for world in range(0, 1000, 10):
        ended = attempt("01-aa", "error", message="x" * 5000)
        made.save(WorldState(index=world, status="failed", attempts=(ended,)))
        tell(made, world, "01-aa", range(1, 200))
    found = page(facts(made))
    assert len(found) < 3_000_000
    words = told(made)
    assert "And 50 more worlds." in words
    assert "And 90 more worlds." in words


def test_accuracy_comes_of_the_newest_evaluations_of_one_ensemble(tmp_path: Path) -> None:
    made = begun(tmp_path)
    assert "Not measured yet: no world is done." in told(made)
    measure(made, "min", data="elsewhere")
    measure(made, "mean")
    measure(made, "log", worlds=8)
    found = facts(made).measured
    assert found is not None
    assert found.combiners == ["log", "mean"]
    assert found.best == ("log", 8)
    words = told(made)
    assert "P@180.0 %log, 8 worlds" in words
    assert "60 rows of held-out, measured 2026-01-01 12:00 UTC of an earlier ensemble" in words


def test_a_whole_run_is_reported_with_the_command_that_measures_it(tmp_path: Path) -> None:
    held_out = write(tmp_path / "held-out.parquet", searches(60, seed=3))
    made = Run.open(str(trained(run_config(tmp_path, f"data.validation={held_out}"))))
    words = told(made)
    assert "Done · as of" in words
    assert "bucket accuracy" in words
    assert f"Not measured yet: manyworlds evaluate {made.uri} data={held_out}" in words
    assert manyworlds("evaluate", made.uri, f"data={held_out}").code == 0
    found = facts(made)
    assert found.measured is not None and found.measured.served
    assert not found.damage
    assert found.rows == 200
    assert {curve.world for curve in found.accuracies.worlds} == {0, 1, 2}
    assert "measured" in told(made) and "earlier ensemble" not in told(made)


def test_damaged_metrics_and_evaluations_are_left_out_and_told(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.save(WorldState(index=0, status="running", attempts=(attempt("01-aa", None),)))
    tell(made, 0, "01-aa", [5, 10])
    folder = made.paths.metrics(0, "01-aa")
    good = made.storage.read_bytes(f"{folder}/0001.jsonl").splitlines()[0]
    for bad in (b"{", b"[]", good.replace(b"100.0", b'"fast"'), good.replace(b"100.0", b"NaN")):
        made.storage.append(
            folder, good.replace(b'"step": 5', b'"step": 15') + b"\n" + bad, ".jsonl"
        )
    made.storage.write_bytes("evaluations/0001.json", b'{"schema": 1}')
    found = facts(made)
    assert found.losses.worlds[0].steps.tolist() == [5, 10, 15]
    assert len(found.damage) == 5
    assert "0002.jsonl: expected what a world told while it trained, found b'{'" in found.damage[0]
    assert "What could not be read" in told(made)


def test_times_that_are_none_are_not_drawn(tmp_path: Path) -> None:
    made = begun(tmp_path)
    odd = [
        replace(attempt("01-aa", "error"), started_at=when)
        for when in ("then", "2026-01-01T12:00:00", "0001-01-01T00:00:00+23:59")
    ]
    made.save(WorldState(index=0, attempts=(*odd, attempt("02-bb", "error"))))
    found = facts(made).when
    assert (len(found.spans), found.undated) == (1, 3)
    assert "3 attempts without a readable time not drawn." in told(made)


def test_pauses_are_cut_out(tmp_path: Path) -> None:
    made = begun(tmp_path)
    times = [(0, 10), (5, 12), (120, 130)]
    attempts = [
        attempt(f"{i + 1:02d}-aa", "stopped", started_at=clock(start), ended_at=clock(end))
        for i, (start, end) in enumerate(times)
    ]
    made.save(WorldState(index=0, attempts=tuple(attempts)))
    when = facts(made).when
    assert when.seconds == 22 * 60
    assert list(when.pauses) == [(12 * 60, 108 * 60)]
    assert [(span.began, span.ended) for span in when.spans] == [
        (0, 600),
        (300, 720),
        (720, 1320),
    ]


def test_throughput_counts_every_row_once(tmp_path: Path) -> None:
    made = begun(tmp_path)
    for world in (0, 1):
        ended = attempt("01-aa", "done", started_at=clock(0), ended_at=clock(10))
        made.save(WorldState(index=world, status="done", attempts=(ended,), winner="01-aa"))
        # 100 and 101 rows a second for four minutes.
        tell(made, world, "01-aa", range(5, STEPS + 1, 5))
    parts = facts(made).throughput
    assert sum((to - since) * rate for since, to, rate in parts) == pytest.approx(201 * 240)
    assert parts[0][2] == pytest.approx(201)
    assert parts[-1][2] == 0


def test_throughput_counts_no_rows_while_worlds_validate(tmp_path: Path) -> None:
    made = begun(tmp_path)
    ended = attempt("01-aa", "done", started_at=clock(0), ended_at=clock(10))
    made.save(WorldState(index=0, status="done", attempts=(ended,), winner="01-aa"))
    # A validation of most of the second half minute: the pace is that of the steps.
    tell(made, 0, "01-aa", [5], rows=3000)
    tell(made, 0, "01-aa", [10], rows=50)
    parts = facts(made).throughput
    assert sum((to - since) * rate for since, to, rate in parts) == pytest.approx(3050)
    assert facts(made).rates == {0: 100.0}


@pytest.mark.parametrize("rows", ["many", True, -1, 10**400])
def test_rows_that_are_no_count_are_told(tmp_path: Path, rows: Any) -> None:
    made = begun(tmp_path)
    ended = attempt("01-aa", "done", started_at=clock(0), ended_at=clock(10))
    made.save(WorldState(index=0, status="done", attempts=(ended,), winner="01-aa"))
    tell(made, 0, "01-aa", [5], rows=rows)
    assert "expected what a world told" in told(made)


@pytest.mark.parametrize(
    ("value", "words"),
    [(9999.4, "9,999"), (9999.7, "10 k"), (999_960, "1 M"), (999_949, "999.9 k"), (-0.5, "-0.5")],
)
def test_numbers_in_short_are_rounded_before_they_get_a_unit(value: float, words: str) -> None:
    assert charts.short(value) == words


def test_nothing_that_users_write_is_taken_for_html(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "")
    made = eventful(tmp_path, f"run={tmp_path / name}", f"data.train={HOSTILE}")
    measure(made, HOSTILE, data=HOSTILE)
    found = page(facts(made))
    assert html.escape(HOSTILE) in found
    assert not re.search(r"<(script|img|b)\b", found)
    assert found.count("</title></style>") == 0


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.save(WorldState(index=0, attempts=(attempt("01-aa", "error", message="half \ud800."),)))
    out = tmp_path / "report.html"
    assert manyworlds("report", made.uri, f"out={out}").code == 0
    assert "half ?." in out.read_text(encoding="utf-8")


def test_a_run_in_an_object_store_is_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path / "s3") as port:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            monkeypatch.setenv(name, value)
        made = begun(tmp_path, "run=s3://bucket/run")
        made.save(WorldState(index=0, status="running", attempts=(attempt("01-aa", None),)))
        tell(made, 0, "01-aa", [5])
        before = made.storage.sizes()
        ended = manyworlds("report", made.uri, f"out={tmp_path}/report.html")
        assert (ended.code, ended.err) == (0, "")
        assert "run=s3://bucket/run" in (tmp_path / "report.html").read_text()
        assert made.storage.sizes() == before


def test_its_command_makes_the_same_run(tmp_path: Path) -> None:
    odd = run_config(
        tmp_path,
        "data.text=['a,b', \"it's\", 'null']",
        "data.weight='1e3'",
        "optimizer.rate=1e-7",
        "model.active=0.05",
        "model.lsh.shared=true",
        "retry.preemption=7",
        "data.on_bad_shard=skip",
    )
    made = Run.create(odd.run, odd.identity(), odd.settings())
    code = re.search(r"<pre[^>]*><code>(.*?)</code>", page(facts(made)), re.DOTALL)
    assert code is not None
    verb = shlex.split(html.unescape(code[1]).replace("\\\n", ""))
    assert verb[:2] == ["manyworlds", "train"]
    again: RunConfig = load(None, verb[2:])
    assert again == odd
    assert (again.identity(), again.settings()) == (made.identity, made.settings)
