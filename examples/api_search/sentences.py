"""Plain English sentences out of docstrings in reStructuredText, NumPy and Google style."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import partial

MIN_WORDS = 3
MAX_WORDS = 40

# Section titles in lower case: lists of named things, what is dropped, running text.
# fmt: off
ENTRIES = frozenset({
    "parameters", "other parameters", "params", "args", "arguments", "keyword args",
    "keyword arguments", "kwargs", "attributes", "attrs", "fields", "inputs", "outputs",
    "returns", "return", "yields", "yield", "receives", "raises", "raise"
})
SKIPPED = frozenset({
    "see also", "references", "reference", "example", "usage", "usage example", "sample usage",
    "shape", "shapes", "methods", "authors", "author", "license", "copyright"
})
PROSE = frozenset({
    "notes", "note", "warnings", "warning", "warns", "summary", "extended summary",
    "description", "details", "remarks", "important", "tip", "tips", "caution", "overview"
})
KEPT_DIRECTIVES = frozenset({
    "note", "warning", "important", "tip", "attention", "caution", "hint", "danger"
})
# fmt: on

UNDERLINE = re.compile(r"([-=~^*\"'#+`_.:])\1{2,}")
DIRECTIVE = re.compile(r"\.\.\s+(?P<name>[\w:+-]+?)::\s*(?P<rest>.*)")
FIELD = re.compile(
    r":(?P<kind>param|parameter|arg|argument|key|keyword|kwarg|type|rtype|returns?|raises?|except"
    r"|exception|i?var|cvar|vartype|yields?|meta|members|undoc-members)(?:\s+[^:`]*)?:"
    r"(?:\s+(?P<rest>.*))?"
)
GOOGLE_ENTRY = re.compile(
    r"\*{0,2}`{0,2}[\w.\\]+(?:\[[^:]*\])?`{0,2}(?:\s*,\s*\*{0,2}\w+)*\s*"
    r"(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?"
    r"\s*(?::|\s--?)\s+(?P<rest>.*)"
)
BULLET = re.compile(r"(?:[-*+•]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+(?P<rest>.*)")
SIGNATURE = re.compile(r"[\w.]+\s*\(.*\)\s*(?:->.*|--)?\s*(?:#.*)?")

FORMULA = " \N{REPLACEMENT CHARACTER} "
MARKUP = (
    (re.compile(r":math:`\s*([\w ,.+-]{1,12})\s*`"), r"\1"),
    (re.compile(r":math:`[^`]*`"), FORMULA),
    (re.compile(r"\$[^$\n]{1,200}\$"), FORMULA),
    (re.compile(r":[\w:+-]+:`~?[!.]?([^`<]+?)\s*<[^`>]*>`"), r"\1"),
    (re.compile(r":[\w:+-]+:`~?[!.]?([^`]+)`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]+>`_{0,2}"), r"\1"),
    (re.compile(r"\[([^\]\[]+)\]\((?:https?:|#|/)[^)]*\)"), r"\1"),
    (re.compile(r"<?https?://[^\s>)]+>?"), " "),
    (re.compile(r"\[(?:\d+|\w*\d{4}\w?)\]_?"), ""),
    (re.compile(r"`+([^`]*)`+_{0,2}"), r"\1"),
    (re.compile(r"(?<!\w)\*\*(\S(?:[^*]*\S)?)\*\*(?!\w)"), r"\1"),
    (re.compile(r"(?<![\w*])\*(\w(?:[^*\n]*\w)?)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)\|(\w+)\|(?!\w)"), r"\1"),
    (re.compile(r"\\([*_`|])"), r"\1"),
    (re.compile(r"#\s*(?:noqa|type:|pragma|pylint).*"), ""),
    (re.compile(r"<(\w[\w -]{0,30})>"), r"\1"),
    (re.compile(r"</?\w[^<>]{0,60}>"), " "),
)
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|Fig|Eq|No|Sec|al|incl)|\b[A-Z])\.$"
)
BREAK = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z\"'(\d_])")
FRAGMENT = re.compile(
    r"(?i)(?:\(?e\.g\.|see |also see|refer to |alias (?:for|of)"
    r"|default(?:s)?(?: value)?(?: is| to|:)|optional"
    r"|deprecated|copyright|added in version|changed in version|new in version|note that this "
    r"(?:api|function|class) is|warning: this|this (?:api|class|function) is (?:in )?"
    r"(?:alpha|beta|experimental)|publicapi|developerapi|deveoperapi|todo|fixme|xxx)"
)
ANNOUNCEMENT = re.compile(
    r"(?i)(?:\b(?:follow\w*|below|example|examples|e\.g\.|see(?: the)?|like|usage|such as|instance)"
    r"(?: \w+){0,6}:+|\b(?:the|of|by|in|to|see|and|for|with|a"
    r"|is|an|that|so|if|when|where|as|or|from|on|at|be|are))$"
)
CODE = re.compile(r"[=<>{}\[\]\\|^@$]|\(\)|->|\b0x|__\w|::|\.\.\.$")
LETTERS = re.compile(r"[^\W\d_]{2,}")


def sentences(docstring: str) -> list[str]:
    """Sentences of a docstring in their order, each once, of 3 to 40 words.

    Left out: code, doctests, formulas, tables, signatures, headings, and the
    sections that speak of other objects (See Also, References, Examples).
    """
    lines = inspect.cleandoc(docstring.expandtabs(8)).splitlines()
    found: dict[str, str] = {}
    for paragraph in _paragraphs(lines):
        for sentence in _split(_plain(paragraph)):
            found.setdefault(normalised(sentence), sentence)
    return list(found.values())


def normalised(sentence: str) -> str:
    """The form in which two sentences count as the same."""
    return " ".join(sentence.lower().split()).rstrip(".!?:; ")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _heading(lines: list[str], at: int) -> tuple[str, int, bool] | None:
    """(title in lower case, index of the first line below, whether underlined)."""
    text = lines[at].strip()
    if at + 1 < len(lines) and text and UNDERLINE.fullmatch(lines[at + 1].strip()):
        title = text.lower().strip("*: ")
        return "example" if title.startswith("example") else title, at + 2, True
    if len(text) > 60:
        return None
    title = text.lower().strip("*").rstrip(":").strip()
    if title.startswith("example"):
        title = "example"
    known = title in ENTRIES or title in SKIPPED or title in PROSE
    if known and text.endswith((":", ":**")):
        return title, at + 1, False
    return None


def _block_end(lines: list[str], at: int, indent: int) -> int:
    """First line from `at` on that is not blank and not deeper than `indent`."""
    while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > indent):
        at += 1
    return at


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Pieces of running text, one a paragraph, list item or parameter description."""
    at = 0
    while at < len(lines):
        heading = _heading(lines, at)
        if heading is None:
            end = _until_heading(lines, at)
            yield from _prose(lines[at:end])
            at = end
            continue
        title, start, underlined = heading
        level = _indent(lines[at])
        close = _until_underlined if underlined else partial(_block_end, indent=level)
        end = close(lines, start)
        if title in ENTRIES:
            yield from _entries(lines[start:end], numpy=underlined)
        elif title not in SKIPPED:
            yield from _paragraphs(lines[start:end])
        at = end


def _until_heading(lines: list[str], at: int) -> int:
    at += 1
    while at < len(lines) and _heading(lines, at) is None:
        at += 1
    return at


def _until_underlined(lines: list[str], at: int) -> int:
    while at < len(lines):
        heading = _heading(lines, at)
        if heading is not None and heading[2]:
            return at
        at += 1
    return at


def _entries(lines: list[str], *, numpy: bool) -> Iterator[str]:
    """The descriptions in a list of parameters; names and types are left out."""
    full = [line for line in lines if line.strip()]
    if not full:
        return
    level = min(_indent(line) for line in full)
    item: list[str] = []
    for number, line in enumerate(lines):
        if line.strip() and _indent(line) == level:
            yield from _prose(item)
            below = number + 1 < len(lines) and _indent(lines[number + 1]) > level
            item = [_description(line, below=below, numpy=numpy)]
        else:
            item.append(line)
    yield from _prose(item)


def _description(line: str, *, below: bool, numpy: bool) -> str:
    """What the first line of an entry says itself, beside the name and the type."""
    if numpy and (below or " : " in line):
        return ""
    google = GOOGLE_ENTRY.fullmatch(line.strip().lstrip("-* "))
    if google and not numpy:
        return " " * (_indent(line) + 4) + google["rest"]
    return line if " " in line.strip() else ""


def _prose(lines: list[str]) -> Iterator[str]:
    """Paragraphs and list items of lines without headings; literal blocks are left out."""
    paragraph: list[str] = []
    at = 0
    while at < len(lines):
        text, begins, ends, at = _read_line(lines, at)
        if begins and paragraph:
            yield " ".join(paragraph)
            paragraph = []
        if text and not _is_noise(text):
            paragraph.append(text)
        if ends and paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)


def _read_line(lines: list[str], at: int) -> tuple[str, bool, bool, int]:
    """(text, whether a paragraph begins here, whether it ends here, index of the next line)."""
    text, level, below = lines[at].strip(), _indent(lines[at]), at + 1
    if not text:
        return "", True, True, below
    if text.startswith("```"):
        return "", True, True, _after_fence(lines, below)
    if text.startswith((">>>", "In [", "$ ")):
        return "", True, True, _after_blank(lines, below)
    if directive := DIRECTIVE.match(text):
        if directive["name"] in KEPT_DIRECTIVES:
            return directive["rest"], True, False, below
        return "", True, True, _block_end(lines, below, level)
    if field := FIELD.match(text):
        if field["kind"] in ("type", "rtype"):
            return "", True, True, _block_end(lines, below, level)
        return field["rest"] or "", True, False, below
    if bullet := BULLET.fullmatch(text):
        return bullet["rest"], True, False, below
    if text.endswith("::"):
        return text, False, True, _block_end(lines, below, level)
    return text, False, False, below


def _after_fence(lines: list[str], at: int) -> int:
    while at < len(lines) and not lines[at].strip().startswith("```"):
        at += 1
    return at + 1


def _after_blank(lines: list[str], at: int) -> int:
    while at < len(lines) and lines[at].strip():
        at += 1
    return at


def _is_noise(line: str) -> bool:
    table = line.startswith(("+--", "+==", "|", "---", "===", ".. ", "... ", "@"))
    return table or bool(UNDERLINE.fullmatch(line)) or bool(SIGNATURE.fullmatch(line))


def _plain(paragraph: str) -> str:
    for pattern, replacement in MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    paragraph = re.sub(r"\s+([.,;:)])(?=\s|$)", r"\1", " ".join(paragraph.split()))
    return paragraph.replace("--", "-").strip()


def _split(paragraph: str) -> Iterator[str]:
    start = 0
    pieces = []
    for found in BREAK.finditer(paragraph):
        if not ABBREVIATION.search(paragraph[start : found.start()]):
            pieces.append(paragraph[start : found.start()])
            start = found.end()
    pieces.append(paragraph[start:])
    for piece in pieces:
        piece = piece.strip(" -*").removeprefix("...").strip()
        if ANNOUNCEMENT.search(piece):
            continue
        piece = " ".join(piece.rstrip(":;, ").split()[:MAX_WORDS])
        if _is_english(piece):
            yield piece


def _is_english(sentence: str) -> bool:
    count = sum(LETTERS.search(word) is not None for word in sentence.split())
    if count < MIN_WORDS or FRAGMENT.match(sentence) or FORMULA.strip() in sentence:
        return False
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return letters >= 0.8 * len(sentence) and len(CODE.findall(sentence)) <= count // 6
