"""From raw logs to Parquet shards with dense class ids.

CSV, TSV, JSON lines, Parquet and the XMC Repository's text format are read alike: a file is cut
into pieces of some megabytes, each of which any process reads by itself, with the same result.
What cannot be used is set aside. Class names become ids, equal rows one with a weight, and each
query's rows stand on one side of the split.
"""

from orchestrator.prepare.config import PrepareConfig
from orchestrator.prepare.cutting import Piece
from orchestrator.prepare.job import Summary, prepare
from orchestrator.prepare.rows import Sifted
from orchestrator.prepare.sources import Source

__all__ = ["Piece", "PrepareConfig", "Sifted", "Source", "Summary", "prepare"]
