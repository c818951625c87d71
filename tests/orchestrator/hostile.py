"""Hostile files: what may lie in place of a file of a run, as a finite list of cases.

A case replaces one file of a finished run: bits flipped, cut short, grown, emptied, taken from
elsewhere, announcing petabytes, nested to any depth, with values of other types and names that
lead out of the folder. Each comes as it is, and `sealed`: with every size and sha256 recomputed
that vouches for the file (its own, that of the `COMMIT` beside it, that of the receipt or the
manifest which names the weights), so that its content must be checked.

What nobody can tell from a good file is a good file of something else: a sealed one whose
values are all of the kind that they were, such as other finite weights, another seed, or
another number of steps. Such cases are `plausible`: any answer will do, but there must be one,
or an error in words. All others must give an error in words, or the answer of the run that
nobody touched.

What is for people alone, logs and progress, is shown as it is: logs carry no hash, and progress
does not say whose it is. README.md and metrics are never read back.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tests.orchestrator.hostile_content import (
    HOSTILE,
    Make,
    Runs,
    Write,
    aliases,
    are_names,
    reader,
    tables,
    tensor_files,
)
from workers.storage.formats import content_sha256

Where = tuple[Any, ...]
"""Keys and numbers that lead to a value."""
FAR = 1 << 40
"""Bytes of the file that is too large; it has none of them on the disk."""

_OPTIONAL = set(
    "bucket_accuracy loss ended_at cause node resumed_from trouble validation class_names indices"
    " values dense cache_folder max_parallel preemption min_worlds".split()
)


@dataclass(frozen=True, slots=True)
class Case:
    """One file replaced, and what vouches for it."""

    path: str
    """In the run's folder."""
    what: str
    """In words."""
    files: Mapping[str, bytes]
    """The new bytes by path."""
    size: int | None = None
    """Grow the file to so many bytes, without writing them."""
    plausible: bool = False
    """Whether it is a good file of something else."""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"

    def put(self, run: Path) -> None:
        """Replace the files."""
        for path, data in self.files.items():
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            (run / path).write_bytes(data)
        if self.size is not None:
            with (run / self.path).open("r+b") as file:
                file.truncate(self.size)


class Generator:
    """Makes the cases of a run's files.

    Args:
        files: of the run, by path.
        canary: a file that code would make, if any of it ran.
        seed: of the random choices.
        flips: bits flipped in each file, and as many times sealed.
    """

    def __init__(
        self, files: Mapping[str, bytes], canary: Path, *, seed: int = 0, flips: int = 40
    ) -> None:
        self._files = files
        self._canary = canary
        self._seed = seed
        self._flips = flips

    def cases(self, path: str, most: int | None = None) -> Iterator[Case]:
        """Yield the cases of one file, or `most` of them, chosen at random."""
        drafts = list(self._drafts(path))
        rng = random.Random(f"{self._seed} {path} chosen")
        if most is not None and most < len(drafts):
            drafts = rng.sample(drafts, most)
        yield from (draft() for draft in drafts)

    def _drafts(self, path: str) -> Iterator[Callable[[], Case]]:
        """Yield what makes each case of one file."""
        rng = random.Random(f"{self._seed} {path}")
        data = self._files[path]
        whole: dict[str, bytes] = {path: data}
        yield partial(Case, path, "grown to a terabyte", whole, size=FAR)
        for what, damaged in [*self._damaged(data, rng), *self._foreign(path)]:
            yield partial(Case, path, what, {path: damaged})
            if PurePosixPath(path).suffix not in (".txt", ".jsonl"):
                yield partial(self._sealed, path, what, _given(damaged))
        yield from (partial(self._sealed, path, *more) for more in self._contents(path, data))

    def _contents(
        self, path: str, data: bytes
    ) -> Iterator[tuple[str, Make] | tuple[str, Make, bool]]:
        if path.endswith(".safetensors"):
            for what, damaged in tensor_files(data):
                yield what, _given(damaged)
        if path.endswith(".parquet"):
            yield from tables(data, f"touch {self._canary}")
        if read := reader(path):
            yield from _values(path, *read(data))

    def _sealed(self, path: str, what: str, make: Make, plausible: bool = False) -> Case:
        """Return a case in which all that vouches for the file agrees with it.

        Args:
            path: of the file.
            what: in words.
            make: makes its bytes.
            plausible: whether they are known to be those of a good file.
        """
        files = sealed_files(self._files, path, make())
        plausible = plausible or _is_plausible(path, self._files[path], files[path])
        return Case(path, f"{what}, sealed", files, plausible=plausible)

    def _damaged(self, data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
        yield "emptied", b""
        for _ in range(self._flips if data else 0):
            at, bit = rng.randrange(len(data)), rng.randrange(8)
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            yield f"bit {bit} of byte {at} flipped", bytes(flipped)
        for _ in range(self._flips // 4):
            length = rng.randrange(max(1, len(data)))
            yield f"cut to {length} bytes", data[:length]
        for more in (b"\0", b"\n", b"}", rng.randbytes(9), data):
            yield f"{len(more)} bytes more", data + more
        start = rng.randrange(max(1, len(data)))
        noise = rng.randbytes(min(64, len(data)))
        yield f"noise from byte {start}", data[:start] + noise + data[start + len(noise) :]

    def _foreign(self, path: str) -> Iterator[tuple[str, bytes]]:
        for other in sorted(self._files):
            alike = PurePosixPath(other).name == PurePosixPath(path).name
            if other != path and (alike or hash_of(self._files[other])[0] in "01"):
                yield f"{other} in its place", self._files[other]
        command = f"touch {self._canary}"
        yield "a pickle", pickle.dumps(Runs(command))
        yield "YAML that runs code", f'!!python/object/apply:os.system ["{command}"]\n'.encode()
        yield (
            "YAML that runs code as a value",
            f'schema: 1\nseed: !!python/object/apply:os.system ["{command}"]\n'.encode(),
        )
        yield "aliases of aliases", aliases()
        yield "a name that leads out", b"../../outside/secret"
        yield "an absolute name", str(self._canary.parent / "secret").encode()
        yield "deep nesting", b"[" * 100_000
        yield "deep nesting that ends", b'{"schema": 1, "a": ' + b"[" * 900 + b"]" * 900 + b"}"
        yield "no UTF-8", b"\xff\xfe\xfd"
        yield "a number of 10,000 digits", b'{"schema": ' + b"1" * 10_000 + b"}"
        yield "not a number", b"NaN"
        yield "zeros", bytes(4096)


def _values(path: str, values: Any, write: Write) -> Iterator[tuple[str, Make, bool]]:
    """Yield other values in a file: what, what makes its bytes, whether they are plausible."""

    def put(where: Where, new: Any) -> Make:
        return lambda: write(_put(values, where, new))

    is_yaml = path.endswith(".yaml")
    for where, old in _leaves(values):
        for new in HOSTILE:
            if type(new) is type(old) and new == old:
                continue
            plausible = _same_kind(where, old, new) and "COMMIT" not in path
            # YAML's words and numbers are turned into one another.
            plausible |= is_yaml and _turns_into(old, new)
            yield f"{_dotted(where)} = {new!r:.40}", put(where, new), plausible
        # A list may be shorter, and a setting that is not there has its default.
        yield f"without {_dotted(where)}", put(where, _Missing), where[-1] == 0 or is_yaml
    for where in [(), *(where for where, old in _leaves(values) if isinstance(old, dict))]:
        yield f"{_dotted((*where, 'surprise'))} = 1", put((*where, "surprise"), 1), False
        out = (*where, "../../outside/secret")
        yield f"a name that leads out in {_dotted(where)}", put(out, _at(values, where)), False
    twice = write(values).replace(b"{", b'{"schema": 1, "files": {}, "shards": 7,', 1)
    yield "keys twice", lambda: twice, False


def _given(data: bytes) -> Make:
    return lambda: data


def hash_of(data: bytes) -> str:
    """Return a file's sha256."""
    return hashlib.sha256(data).hexdigest()


def sealed_files(files: Mapping[str, bytes], path: str, data: bytes) -> dict[str, bytes]:
    """Return a file, and all that vouches for it with its new size and sha256."""
    data = _with_own_hash(path, data)
    changed = {path: data}
    folder = str(PurePosixPath(path).parent)
    commit, name = f"{folder}/COMMIT", PurePosixPath(path).name
    if name == "COMMIT" or commit not in files:
        return changed
    entries = {name: data}
    if name.startswith(("model.", "world-")):
        for voucher in ("receipt.json", "manifest.json"):
            if (beside := f"{folder}/{voucher}") in files:
                entries[voucher] = changed[beside] = _with_weights(files[beside], name, data)
    listed = json.loads(files[commit])
    for name, data in entries.items():
        listed["files"][name] = {"size": len(data), "sha256": hash_of(data)}
    changed[commit] = _with_own_hash(commit, json.dumps(listed).encode())
    return changed


def _with_weights(voucher: bytes, name: str, data: bytes) -> bytes:
    values = json.loads(voucher)
    for item in [values, *values.get("members", [])]:
        if "world" in item and name in (
            "model.safetensors",
            f"world-{item['world']:03d}.safetensors",
        ):
            item["model_sha256"] = hash_of(data)
    return _with_own_hash("a.json", json.dumps(values).encode())


def _with_own_hash(path: str, data: bytes) -> bytes:
    """Return a file of values with its own sha256 recomputed, if it can be read at all."""
    read = reader(path)
    try:
        values, write = read(data) if read else (None, None)
        if write and isinstance(values, dict) and "sha256" in values:
            rest = {key: item for key, item in values.items() if key not in ("schema", "sha256")}
            return data.replace(str(values["sha256"]).encode(), content_sha256(rest).encode(), 1)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError):
        pass
    return data


def _is_plausible(path: str, old: bytes, new: bytes) -> bool:
    """Return whether a file is well formed as the old one was, judged without the product."""
    if path.endswith(".safetensors"):
        start = 8 + struct.unpack("<Q", old[:8])[0]
        return new[:start] == old[:start] and len(new) == len(old) and _finite(new[start:])
    if path.endswith(".md"):
        return True
    if path.endswith(".parquet"):
        return are_names(new)
    read = reader(path)
    if not read or path.endswith("COMMIT"):
        return False
    try:
        before, after = read(old)[0], read(new)[0]
    except (ValueError, RecursionError, yaml.YAMLError):
        return False
    return _alike(before, after)


def _finite(data: bytes) -> bool:
    return all(math.isfinite(number) for (number,) in struct.iter_unpack("<f", data))


def _alike(old: Any, new: Any, where: tuple[Any, ...] = ()) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(
            _alike(old[key], new[key], (*where, key)) for key in old
        )
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(
            _alike(one, other, where) for one, other in zip(old, new, strict=True)
        )
    return old == new or _same_kind(where, old, new)


def _same_kind(where: tuple[Any, ...], old: Any, new: Any) -> bool:
    """Return whether a value may stand in the place of another, as far as types tell."""
    if old is None or (new is None and set(where) & _OPTIONAL):
        return not isinstance(new, (dict, list))
    if isinstance(old, (dict, list)):
        return isinstance(old, list) and new == []
    if isinstance(old, float):
        return type(new) in (int, float) and abs(new) < 2**63
    if type(old) is int:
        return type(new) is int and 0 <= new < 2**63
    return type(old) is type(new)


def _turns_into(old: Any, new: Any) -> bool:
    """Return whether a typed setting takes a word or number in the place of another."""
    if isinstance(old, (str, list)):
        return isinstance(new, (str, int, float))
    return isinstance(old, (int, float)) and (isinstance(new, str | bool) or _is_count(new))


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and value >= 0


def _leaves(values: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the place of every value, of groups too, and the value."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        if key == "sha256" and not where:
            continue
        yield (*where, key), value
        if isinstance(value, (dict, list)):
            yield from _leaves(value, (*where, key))


def _at(values: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        values = values[key]
    return values


class _Missing:
    """Stands for a value that is taken away."""


def _put(values: Any, where: tuple[Any, ...], value: Any) -> Any:
    if not where:
        return value
    key, *rest = where
    copy = dict(values) if isinstance(values, dict) else list(values)
    if rest:
        copy[key] = _put(values[key], tuple(rest), value)
    elif value is _Missing:
        del copy[key]
    else:
        copy[key] = value
    return copy


def _dotted(where: tuple[Any, ...]) -> str:
    return ".".join(map(str, where)) or "the whole"
