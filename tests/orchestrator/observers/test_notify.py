"""Notices to a command or a URL: done, failed, stalled."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.config import RunConfig, load
from orchestrator.driving import RunSummary
from orchestrator.observers.chosen import chosen
from orchestrator.observers.notify import Notifier
from orchestrator.views import WorldView
from tests.orchestrator.builders import run_config
from tests.orchestrator.observers.recording import RUN, RUNNING, summary
from workers.errors import ConfigError

SECRET = "T0K3N"
HOOK = """
import json, os, sys
told = {key: value for key, value in os.environ.items() if key.startswith("MANYWORLDS_")}
with open(sys.argv[1], "a") as out:
    out.write(json.dumps([json.load(sys.stdin), told]) + "\\n")
"""


class Server:
    """A web server that keeps what is posted to it, and answers as it is told."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.code = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posted.append(json.loads(body))
                outer.paths.append(self.path)
                self.send_response(outer.code)
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/{SECRET}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def hook(folder: Path) -> tuple[str, Path]:
    """Return a command that writes down what it is told, and where."""
    script, out = folder / "hook.py", folder / "told by hook.jsonl"
    script.write_text(HOOK)
    return f"{sys.executable} {script} '{out}'", out


def notices(*looks: list[WorldView], left: RunSummary | None, url: str) -> list[str]:
    """Return what could not be sent of what a run tells that looks so, one after the other."""
    told: list[str] = []
    notifier = Notifier(url, told.append)
    notifier.begin(RUN)
    for views in looks:
        notifier.saw(views)
    if left:
        notifier.end(left)
    return told


FAILED = replace(RUNNING, state="failed", cause="data: a label is missing", ends=1, ended="data")
HUNG = replace(RUNNING, state="pending", cause="hung: no sign of life", ends=1, ended="hung")


def test_a_url_gets_json_with_a_text_to_show(server: Server) -> None:
    assert notices([RUNNING], [FAILED], left=None, url=server.url) == []
    (posted,) = server.posted
    assert server.paths == [f"/hook/{SECRET}"]
    assert posted.pop("at")
    assert posted == {
        "schema": 1,
        "run": "runs/first",
        "event": "failed",
        "world": 0,
        "message": "world 0 failed: data: a label is missing",
        "text": "manyworlds failed: runs/first: world 0 failed: data: a label is missing",
    }


@pytest.mark.parametrize(
    ("looks", "events"),
    [
        ([[RUNNING], [RUNNING]], []),
        ([[FAILED], [FAILED]], []),
        ([[RUNNING], [FAILED], [FAILED]], ["failed"]),
        ([[RUNNING], [HUNG], [HUNG], [replace(HUNG, ends=2)]], ["stalled", "stalled"]),
        ([[HUNG], [replace(HUNG, state="running", attempts=2)]], []),
        ([[RUNNING], [replace(HUNG, state="failed")]], ["failed"]),
        ([[RUNNING], [replace(RUNNING, state="done", ends=1, ended="done")]], []),
    ],
)
def test_what_is_new_is_told_once(
    server: Server, looks: list[list[WorldView]], events: list[str]
) -> None:
    assert notices(*looks, left=None, url=server.url) == []
    assert [posted["event"] for posted in server.posted] == events


@pytest.mark.parametrize(
    ("left", "event", "words"),
    [
        (summary(ensemble="e"), "done", "2 of 2 worlds done, merged into e"),
        (summary(done=[0], failed={1: "no"}, ensemble="e"), "done", "1 of 2 worlds done, merged"),
        (summary(done=[0], failed={1: "no"}), "failed", "1 of 2 worlds done, not merged"),
        (summary(done=[], pending=[0, 1], error="no room"), "failed", "the run ended: no room"),
        (summary(done=[], pending=[0, 1], stopped="by me"), None, ""),
        (summary(done=[0]), None, ""),
    ],
)
def test_how_a_run_was_left_is_told(
    server: Server, left: RunSummary, event: str | None, words: str
) -> None:
    assert notices([RUNNING], left=left, url=server.url) == []
    assert [posted["event"] for posted in server.posted] == ([event] if event else [])
    assert all(words in posted["message"] for posted in server.posted)


def test_a_command_gets_json_and_an_environment(tmp_path: Path) -> None:
    command, out = hook(tmp_path)
    assert notices([RUNNING], [HUNG], left=summary(ensemble="e"), url=command) == []
    (first, told), (second, _) = (json.loads(text) for text in out.read_text().splitlines())
    assert (first["event"], second["event"]) == ("stalled", "done")
    assert told == {
        "MANYWORLDS_RUN": "runs/first",
        "MANYWORLDS_EVENT": "stalled",
        "MANYWORLDS_MESSAGE": first["message"],
    }


def test_a_command_is_run_without_a_shell(tmp_path: Path) -> None:
    command, out = hook(tmp_path)
    trap = tmp_path / "trap"
    assert notices([RUNNING], [FAILED], left=None, url=f"{command} ; touch {trap}") == []
    assert out.exists()
    assert not trap.exists()


def test_a_notice_that_cannot_be_sent_is_told_once_and_keeps_no_other(server: Server) -> None:
    server.code = 503
    told = notices([RUNNING], [HUNG], [FAILED], left=None, url=server.url)
    assert told == ["a notice (stalled) could not be sent: the server answered 503"]
    assert len(server.posted) == 2


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (f"http://127.0.0.1:1/{SECRET}", "Connection refused"),
        (f"http://127.0.0.1:{SECRET}/", "InvalidURL"),
        (f"/no/such/{SECRET}", "No such file or directory"),
        (f"{sys.executable} -c 'raise SystemExit(3)' {SECRET}", "the command ended with 3"),
    ],
)
def test_messages_hold_no_secrets(
    monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (told,) = notices([RUNNING], [FAILED], left=None, url=target)
    assert told == f"a notice (failed) could not be sent: {reason}"


def test_a_command_that_takes_too_long_is_ended() -> None:
    told: list[str] = []
    waits = f"{sys.executable} -c 'import threading; threading.Event().wait()'"
    notifier = Notifier(waits, told.append, timeout=0.2)
    notifier.end(summary(ensemble="e"))
    assert told == ["a notice (done) could not be sent: it took too long"]


def test_a_run_tells_when_it_is_done(tmp_path: Path, server: Server) -> None:
    left = api.train(run_config(tmp_path, f"watch.notify='{server.url}'"))
    assert [posted["event"] for posted in server.posted] == ["done"]
    assert server.posted[0]["message"] == f"3 of 3 worlds done, merged into {left.ensemble}"


def test_a_run_tells_which_worlds_failed(tmp_path: Path) -> None:
    command, out = hook(tmp_path)
    api.train(run_config(tmp_path, "data.classes=60", f'watch.notify="{command}"'))
    told = [json.loads(text)[0] for text in out.read_text().splitlines()]
    assert [(item["event"], item["world"]) for item in told] == [
        ("failed", 0), ("failed", 1), ("failed", 2), ("failed", None),
    ]  # fmt: skip
    assert "expected labels in [0, 60)" in told[0]["message"]


def asked(value: str) -> RunConfig:
    return replace(RUN, watch=replace(RUN.watch, notify=value, tensorboard=None))


def test_the_environment_can_hold_url_or_command() -> None:
    told: list[str] = []
    environment = {"HOOK": f"http://127.0.0.1:{SECRET}/"}
    (notifier,) = chosen(asked("env:HOOK"), warn=told.append, environment=environment)
    notifier.end(summary(ensemble="e"))
    assert told == ["a notice (done) could not be sent: InvalidURL"]


@pytest.mark.parametrize(
    ("held", "found"),
    [({}, "nothing"), ({"HOOK": f"ftp://{SECRET}"}, "neither"), ({"HOOK": "env:HOOK"}, "neither")],
)
def test_an_environment_without_it_is_told(held: dict[str, str], found: str) -> None:
    with pytest.raises(ConfigError, match=rf"in the environment variable HOOK, found {found};"):
        chosen(asked("env:HOOK"), environment=held)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (f"ftp://{SECRET}@host", "a URL of another kind"),
        (f"tell '{SECRET}", "a quotation that does not end"),
        ("''", "nothing"),
        ("env:", "env: without a name"),
    ],
)
def test_what_is_neither_is_refused_without_showing_it(
    tmp_path: Path, value: str, found: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, ["run=r", "data.train=d", "data.classes=100000", "data.text=[query]",
                    f"watch.notify={json.dumps(value)}"])  # fmt: skip
    assert str(caught.value) == (
        f"watch.notify: expected a command, an http(s) URL, env:NAME or null, found {found}"
    )


def test_settings_are_shown_without_it() -> None:
    assert SECRET not in repr(asked(f"https://host/{SECRET}"))
