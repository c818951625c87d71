"""The pages of docs/: their commands run, their answers are real, their links lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click import UsageError

from orchestrator.serving import alone as service
from orchestrator.serving.settings import ServingConfig
from tests import documents
from tests.docker import inside
from tests.documents import LANGUAGES, PAGES, Step, alone, assigned, blocks, kind_of, links, steps
from tests.orchestrator.command import manyworlds
from tests.test_house_rules import ROOT
from workers.errors import ConfigError

CLUSTERS = documents.DOCS / "clusters.md"
FIRST = documents.DOCS / "first-job.md"
SERVING = documents.DOCS / "serving.md"
MESSAGES = documents.DOCS / "troubleshooting.md"
CURL = shutil.which("curl")
COMMANDS = [(page, step.text) for page in PAGES for step in steps(page) if step.language == "sh"]
RUN = [page for page in PAGES if page != FIRST and any(s.language == "sh" for s in steps(page))]


def name_of(page: Path) -> str:
    return page.name


class Reader:
    """Somebody who does what a page says, from top to bottom, in the current folder."""

    def __init__(self, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = steps(page)
        self.printed = ""
        """Since the last block that was no command."""
        self.seen: list[str] = []
        """What was printed, a block each."""
        self._patch = monkeypatch
        self._port = 0

    def go(self) -> None:
        """Do all of it; while a service answers, what comes before the next one."""
        while self.left:
            if self._port and self.left[0].text.startswith("manyworlds serve "):
                return
            self._do(self.left.pop(0))

    def _do(self, step: Step) -> None:
        if step.language == "json":
            documents.same_json(step.text, self.printed.strip().splitlines()[-1])
        elif step.language == "text" and self.printed:
            documents.same_text(step.text, self.printed)
        elif step.language == "python":
            exec(compile(step.text, "page", "exec"), {"__name__": "page"})
        elif step.language == "sh":
            self._command(step.text)
            return
        self.seen.append(self.printed)
        self.printed = ""

    def _command(self, text: str) -> None:
        kind = kind_of(text)
        if kind == "asked":
            self.printed = self._asked(text)
        elif kind == "run" and text.startswith("manyworlds serve "):
            self._serve(documents.split(text)[1:])
        elif kind == "run":
            ended = manyworlds(*alone(documents.split(text)[1:]))
            assert ended.code == 0, f"{text}\n{ended.out}{ended.err}"
            self.printed += ended.out
        else:
            documents.check(text)
        if kind == "set":
            for word in documents.assigned(text):
                self._patch.setenv(*word.split("=", 1))

    def _serve(self, words: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._patch.setattr(service, "wait", self.go)
        before = signal.getsignal(signal.SIGTERM)
        try:
            ended = manyworlds(*alone(words), f"port={self._port}")
        finally:
            signal.signal(signal.SIGTERM, before)
        self._port = 0
        assert ended.code == 0, ended.err

    def _asked(self, text: str) -> str:
        assert self._port, f"{text}: expected a service before it, found none"
        here = text.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")
        assert here != text
        ended = subprocess.run(here, shell=True, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def first_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The folder of a reader who is through with the first job, and what was printed."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        reader = Reader(FIRST, patch)
        reader.go()
    yield folder, [*reader.seen, reader.printed]


def test_the_first_job_ends_with_the_right_product_first(
    first_job: tuple[Path, list[str]],
) -> None:
    folder, seen = first_job
    (asked,) = [text for text in seen if "grey running shoe" in text]
    assert '"classes": [{"class": 829, "name": "red running shoe"' in asked
    assert {path.name for path in folder.iterdir()} == {"logs", "clicks", "runs", "report.html"}


def test_the_first_job_reaches_the_accuracy_that_the_page_tells(
    first_job: tuple[Path, list[str]],
) -> None:
    told = [int(found) for found in re.findall(r"about (\d+) %", FIRST.read_text())]
    # Of four worlds, of one of them, and of eight.
    curves = [re.findall(r"^log +\d+ +([\d.]+)", text, re.MULTILINE) for text in first_job[1]]
    four, eight = [[float(share) for share in curve] for curve in curves if curve][:2]
    assert [four[-1], four[0], eight[-1]] == pytest.approx(told, abs=3)


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_commands_of_a_page_run_in_order(
    page: Path,
    first_job: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if CURL is None and any(kind_of(text) == "asked" for where, text in COMMANDS if where == page):
        pytest.skip("needs curl")
    folder = shutil.copytree(first_job[0], tmp_path / "reader")
    monkeypatch.chdir(folder)
    reader = Reader(page, monkeypatch)
    reader.go()
    assert not reader.left


def test_a_cluster_that_stays_on_a_laptop_is_joined(
    first_job: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder = shutil.copytree(first_job[0], tmp_path / "reader")
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("0123456789abcdef" * 2)
    first, *_ = [text for language, text in blocks(CLUSTERS) if language == "sh"]
    lines = first.replace("\\\n", " ").splitlines()
    exported = [word for text in lines if kind_of(text) == "set" for word in assigned(text)]
    commands = [documents.split(text) for text in lines if kind_of(text) != "set"]
    assert ["ray", "start", "--head"] in [words[:3] for words in commands]
    plan = {
        "mounts": [],
        "folder": str(folder),
        "services": [],
        "environment": dict(word.split("=", 1) for word in exported),
        "commands": commands,
    }
    # In which a first local cluster made a token, as Ray does.
    home = str(tmp_path / "home")
    *_, (_, _, printed) = inside.run(plan, tmp_path, HOME=home)
    assert "Ray cluster at 127.0.0.1:6379, which runs on this machine already" in printed
    assert "2 of 2 worlds done" in printed


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_have_a_language_and_python_compiles(page: Path) -> None:
    found = blocks(page)
    assert page.read_text().count("```") == 2 * len(found)
    for language, text in found:
        assert language in LANGUAGES, text
        if language == "python":
            ast.parse(text)


@pytest.mark.parametrize(
    "command", [text for _, text in COMMANDS if kind_of(text) not in ("run", "asked")]
)
def test_a_command_that_is_not_run_can_be_read(command: str) -> None:
    documents.check(command)


@pytest.mark.parametrize(
    "command",
    [
        step.text
        for step in steps(ROOT / "README.md")
        if step.language == "sh" and step.text.startswith("manyworlds ")
    ],
)
def test_the_readme_s_commands_can_be_read(command: str) -> None:
    documents.check(command)


def test_every_reason_not_to_run_a_command_has_one() -> None:
    for mark in documents.ELSEWHERE:
        assert any(mark in command for _, command in COMMANDS), mark


@pytest.mark.parametrize(
    "command",
    [
        "manyworlds train run=s3://b/a data.train=s3://b/c partition.bucket=8 'data.text=[q]'",
        "manyworlds train run=s3://b/a data.train=s3://b/c 'data.text=[q]' worlds=many",
        "manyworlds train run=s3://b/a 'data.text=[q]' --sumbit http://head:8265",
        "manyworlds resume s3://b/a runtime.checkpoints=5",
        "manyworlds grow s3://b/a world=5",
        "manyworlds prepare source=s3://b/a out=s3://b/c 'txt=[q]'",
        "manyworlds serve s3://b/a replica=4",
        "manyworlds evaluate s3://b/a dat=rows",
        "manyworlds stop s3://b/a now=true",
        "manyworlds plan amazon-50 --rows 7",
        "kubectl apply --filename docker/kuberay/rayjobs.yaml",
        "ray up docker/launcher/azure.yaml",
        "ray start --heads",
        "export 1=2",
        "pip install '.[jab]'",
        "pip install 'manyworlds[jobs]'",
        "rm --recursive runs",
        "manyworld train",
    ],
)
def test_a_wrong_command_is_noticed(command: str) -> None:
    with pytest.raises((AssertionError, ConfigError, SystemExit, UsageError)):
        documents.check(command)


def test_other_output_than_the_page_shows_is_noticed() -> None:
    documents.same_text("world 3 done  in 5 s\n…\n", "world 4 done in 17.3 s\nworld 5 done")
    with pytest.raises(AssertionError):
        documents.same_text("world 3 ready\n", "world 3 done\n")
    documents.same_json('{"a": [1], "b": null}', '{"a": [2.5, 3], "b": null}')
    with pytest.raises(AssertionError):
        documents.same_json('{"a": [1]}', '{"a": ["1"]}')
    with pytest.raises(AssertionError):
        documents.same_json('{"a": 1}', '{"a": 1, "b": 2}')


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "README.md", ROOT / "docker/README.md"],
    ids=lambda p: p.parent.name + p.name,
)
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, part = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), target
        headings = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE) if part else []
        assert not part or part in [
            re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings
        ]


def test_the_index_names_every_page() -> None:
    index = documents.DOCS / "README.md"
    assert {index.parent / target for target in links(index) if "/" not in target} == {
        page for page in PAGES if page != index
    }


def test_the_page_on_serving_tells_every_setting_and_its_default() -> None:
    section = SERVING.read_text().partition("## Settings")[2].partition("## ")[0]
    cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", section, re.MULTILINE)
    told = {
        setting: default.replace("`", "").strip()
        for settings, defaults in cells
        for setting, default in zip(settings.split(", "), defaults.split(", "), strict=True)
    }
    defaults = dataclasses.asdict(ServingConfig())
    del defaults["ensemble"]
    as_told = {None: "none", 1 << 20: "1 MiB"}
    for name, default in defaults.items():
        found = told[f"`{name}`"].replace(",", "")
        wanted = as_told.get(default, f"{default:g}" if type(default) is float else str(default))
        assert found == wanted, name


def quoted() -> list[str]:
    """Return the messages that the page on trouble explains: the first cell of each row."""
    cells = re.findall(r"^\| `([^`]+)` \|", MESSAGES.read_text(), re.MULTILINE)
    assert len(cells) == len(set(cells)) >= 25
    return cells


def told() -> list[str]:
    """Return every text of the program, with … in the place of what it puts in."""
    found = []
    for folder in ("workers", "orchestrator"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


TOLD = told()


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_in_the_program(message: str) -> None:
    parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
    assert max(map(len, parts)) >= 10
    assert any(re.search(".*".join(parts), text, re.DOTALL) for text in TOLD), message


def test_nobody_is_sent_to_the_other_project_of_this_name() -> None:
    pages = [path.read_text() for path in (*PAGES, ROOT / "README.md")]
    wrong = re.compile(r"pip install '?manyworlds|pip: \[manyworlds\]")
    assert [found[0] for text in [*pages, *TOLD] if (found := wrong.search(text))] == []
