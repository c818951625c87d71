"""Builds the data of the example: `python -m examples.api_search FOLDER`."""

from __future__ import annotations

import sys

from examples.api_search.dataset import build


def main(arguments: list[str]) -> int:
    """Writes the data set into the folder that is named; returns the exit status."""
    if len(arguments) != 1:
        print("expected one argument, the folder to write to: python -m examples.api_search FOLDER")
        return 2
    summary = build(arguments[0], progress=lambda line: print(line, flush=True))
    print(f"{summary.classes:,} classes in {arguments[0]}: train, test, labels.parquet, stats.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
