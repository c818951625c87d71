"""The report of a run: one HTML file that needs nothing beside it.

    write("runs/a", "report.html")

`facts` gathers all that is told, from the run's storage alone; `figures` and
`tables` make HTML of it, and `page` puts them together.
"""

from __future__ import annotations

from orchestrator.report.writing import write

__all__ = ["write"]
