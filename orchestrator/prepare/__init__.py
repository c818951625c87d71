"""From raw logs to Parquet shards with dense class ids.

    raw files ──▶ pieces ──▶ rows that can be used, and those that cannot, set aside

CSV, TSV, JSON lines, Parquet and the XMC Repository's text format are read alike: a file is cut
into pieces of some megabytes, each of which any process reads by itself, with the same result.
"""

from orchestrator.prepare.config import PrepareConfig
from orchestrator.prepare.rows import Sifted
from orchestrator.prepare.sources import Piece, Source

__all__ = ["Piece", "PrepareConfig", "Sifted", "Source"]
