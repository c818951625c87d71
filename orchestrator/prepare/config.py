"""What is to be prepared, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workers.errors import ConfigError

Format = Literal["csv", "tsv", "jsonl", "parquet", "xmc"]
SUFFIXES: dict[Format, tuple[str, ...]] = {
    "csv": (".csv",),
    "tsv": (".tsv",),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet",),
    "xmc": (".txt",),
}
"""How the names of files of each format end."""
PACKED = ".gz"
"""How those end that are compressed."""
WORK = "work"
"""The folder of a job's that is removed at the end."""
UNPACKED = f"{WORK}/unpacked"
"""In it: compressed files, unpacked."""
CLASSES = "classes.parquet"
"""The file with the name of each class id."""
LABELS, WEIGHT = "labels", "weight"
"""What the columns of class ids and weights are called that are written."""
_SIGNS = '\n\r\t",|{}[]: 0123456789'
"""What files are cut by."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Where raw rows are and what their columns mean."""

    source: str = ""
    """A file, a folder or a glob; any pyarrow.fs URI. Text files may be compressed by gzip, and end
    in .gz: they are unpacked into the folder that is written, and go from there at the end."""
    format: Format | None = None
    """Of the files; null: what their names end in says it."""
    columns: tuple[str, ...] = ()
    """Names of the columns of CSV and TSV files without a line of names; empty: they have one."""
    encoding: str = "utf-8"
    """Of text files; rows that are not in it are set aside."""
    text: tuple[str, ...] = ()
    """Text columns. A row needs text in one of them."""
    indices: str | None = None
    """Column of feature ids: lists of integers, or in CSV and TSV, integers between spaces."""
    values: str | None = None
    """Column of feature values beside `indices`, as those; null: they are counted."""
    labels: str = "labels"
    """Column of class names of any type, one or a list for each row."""
    label_separator: str | None = None
    """What stands between the class names of a row in one text, such as `|`; null: it is one
    name."""
    most_labels: int = 10_000
    """Rows with more class names are set aside: they are rarely meant."""
    weight: str | None = None
    """Column of row weights; null: all ones."""
    classes: str | None = None
    """The `classes.parquet` of an earlier job: classes have the ids that they have there, and
    others are left out; null: they get new ones."""
    out: str = ""
    """The folder that is written; any URI."""
    min_count: int = 1
    """Classes that fewer rows have are left out, and rows that have no others."""
    repeats: Literal["weigh", "keep"] = "weigh"
    """Rows of the same query and classes: `weigh`: they become one with the sum of their weights;
    `keep`: they stay."""
    validation: float = 0.0
    """Share of the queries that is held out for validation."""
    test: float = 0.1
    """Share of the queries that is held out for the test."""
    piece_bytes: int = 64 << 20
    """Bytes of a file that are read together; memory is a small multiple of it."""

    def validate(self) -> PrepareConfig:
        """Return this.

        Raises:
            ConfigError: with one sentence for each setting that cannot work.
        """
        if found := self._problems():
            raise ConfigError("\n".join(found))
        return self

    def inputs(self) -> list[str]:
        """Return the columns of the source that are read, each once."""
        inputs = [*self.text, self.indices, self.values, self.labels, self.weight]
        return list(dict.fromkeys(name for name in inputs if name))

    def _problems(self) -> list[str]:
        found = []
        if not self.source:
            found.append("source: expected a file, a folder or a glob, found nothing")
        if self.format == "xmc":
            found += [
                f"{name}: expected nothing for format=xmc, whose lines are labels and features,"
                f" found {getattr(self, name)}"
                for name in ("text", "indices", "values", "weight")
                if getattr(self, name)
            ]
        elif not (self.text or self.indices):
            found.append(
                "text: expected text columns, indices=... or format=xmc, found none of them"
            )
        for setting in ("text", "indices", "values"):
            value = getattr(self, setting)
            names = [value] if isinstance(value, str) else (value or ())
            found += [
                f"{setting}: expected columns of other names than {name}, which is that of another"
                " column that is written; rename it in the source"
                for name in (LABELS, WEIGHT)
                if name in names
            ]
        if self.values and not self.indices:
            found.append("values: expected indices beside it, found none")
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) < 1:
                found.append(
                    f"{name}: expected a share of the queries, from 0 to less than 1, found"
                    f" {getattr(self, name)}"
                )
        if self.validation + self.test >= 1:
            found.append(
                "validation and test: expected some queries left to train on, found shares of"
                f" {self.validation} and {self.test}"
            )
        if self.label_separator == "":
            found.append("label_separator: expected a sign such as '|', or null, found ''")
        if self.classes and self.min_count > 1:
            found.append(
                f"min_count: expected 1 beside classes=..., which says what is left out, found"
                f" {self.min_count}"
            )
        if self.columns and (missing := set(self.inputs()) - set(self.columns)):
            found.append(
                f"columns: expected {', '.join(sorted(missing))} among them, as other settings say,"
                f" found {', '.join(self.columns)}"
            )
        for name in ("min_count", "most_labels", "piece_bytes"):
            if getattr(self, name) < 1:
                found.append(f"{name}: expected at least 1, found {getattr(self, name)}")
        try:
            one_byte = _SIGNS.encode().decode(self.encoding) == _SIGNS
        except (LookupError, UnicodeDecodeError):
            one_byte = False
        if not one_byte:
            found.append(
                "encoding: expected one that Python knows, in which commas and line ends are one"
                f" byte as in ASCII, such as latin-1, found {self.encoding}"
            )
        return found
